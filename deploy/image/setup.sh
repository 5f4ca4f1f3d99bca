#!/bin/sh
# The documented commands of a region, in an order that a container engine can drive. Every step may be run again: what
# is there already stays as it is, so a second `docker compose up` changes nothing.
#
#   setup.sh node DIR EXCHANGE MEMBER NAME        make a node, and lay out for the broker what is public of it
#   setup.sh region DIR EXCHANGE NAME URL MEMBER…  make the region, admit these members, lay out their invitations;
#                                                 URL is how members reach the bus
#   setup.sh run DIR EXCHANGE MEMBER              take the invitation and run the node
#   setup.sh join DIR EXCHANGE MEMBER             wait for the invitation and take it
#
# From the environment: HTTP_PORT (8440 for a node, 8480 for the broker), BUS_PORT (4222), and for a node BUS_CA, the
# authorities of a bus with TLS. HTTP_TLS is a directory with tls.crt and tls.key for HTTPS, HTTP_CLIENT_CA the file of
# whose clients' certificates count; they are set at every run, and taken out again if they are empty. Nothing secret goes through EXCHANGE, but who can write there can put a key of his own
# in: compare the key ids that both sides print.
set -eu
umask 077

# set_in FILE TABLE KEY VALUE: a setting in a TOML file that holds the table once; the file is replaced as a whole.
# Without a VALUE the setting is taken out.
set_in() {
    awk -v table="[$2]" -v key="$3" -v value="$4" '
        $1 == table { print; if (value != "") print key " = \"" value "\""; inside = 1; next }
        /^\[/ { inside = 0 }
        inside && $1 == key { next }
        { print }' "$1" >"$1.new"
    mv "$1.new" "$1"
}

# keep_token FILE COMMAND…: run an `init`; the token that it shows once goes into a file and not into the engine's log.
keep_token() {
    file=$1
    shift
    said=$("$@")
    printf '%s\n' "$said" | sed -n 's/.*[Tt]oken.*: \([^ ]*\)$/\1/p' >"$file"
    test -s "$file"
    printf '%s\n' "$said" | grep -v '[Tt]oken'
    echo "The token is in $file."
}

# serve_tls FILE: HTTPS as the environment says; where it says nothing, the file stays as it is.
serve_tls() {
    [ -n "${HTTP_TLS+said}" ] || return 0
    tls=${HTTP_TLS:-} clients=${HTTP_CLIENT_CA:-}
    set_in "$1" http tls_cert "${tls:+$tls/tls.crt}"
    set_in "$1" http tls_key "${tls:+$tls/tls.key}"
    set_in "$1" http client_ca "${tls:+$clients}"
}

hand_over() {
    cp "$1" "$2.new"
    mv "$2.new" "$2"
}

# host_of URL: the name in it, without scheme and port.
host_of() {
    printf '%s\n' "$1" | sed 's|^[a-z]*://||; s|,.*||; s|:[0-9]*$||'
}

make_node() {
    dir=$1 exchange=$2 member=$3 name=$4
    if [ ! -e "$dir/node.toml" ]; then
        keep_token "$dir/first.token" \
            kentongan node init "$dir" --member "$member" --name "$name" --port "${HTTP_PORT:-8440}"
        if [ -n "${BUS_CA:-}" ]; then
            printf '\n[nats]\nca_file = "%s"\n' "$BUS_CA" >>"$dir/node.toml"
        fi
        set_in "$dir/node.toml" http host 0.0.0.0
    fi
    serve_tls "$dir/node.toml"
    hand_over "$dir/policy.toml" "$exchange/$member.policy.toml"
    hand_over "$dir/member.json" "$exchange/$member.member.json"
}

make_region() {
    dir=$1 exchange=$2 name=$3 url=$4
    shift 4
    if [ ! -e "$dir/broker.toml" ]; then
        keep_token "$dir/coordinator.token" \
            kentongan broker init "$dir" --region "$name" --host 0.0.0.0 --tls-name "$(host_of "$url")" \
            --port "${HTTP_PORT:-8480}" --nats-port "${BUS_PORT:-4222}"
        set_in "$dir/broker.toml" http host 0.0.0.0
        set_in "$dir/broker.toml" nats public_url "$url"
    fi
    serve_tls "$dir/broker.toml"
    for member in "$@"; do
        if ! kentongan broker governance "$dir" | grep -q "^Admit $member "; then
            kentongan broker admit "$dir" "$exchange/$member.member.json" \
                --policy "$exchange/$member.policy.toml" --invitation "$exchange/$member.invitation.json"
        fi
    done
}

join_node() {
    dir=$1 invitation=$2/$3.invitation.json
    if [ ! -e "$dir/invitation.json" ]; then
        [ -e "$invitation" ] || echo "Hand $dir/member.json and policy.toml to the broker's operator; waiting for $invitation"
        until [ -e "$invitation" ]; do sleep 2; done
        kentongan node join "$dir" "$invitation"
    fi
}

run_node() {
    dir=$1 exchange=$2 member=$3
    if [ ! -e "$dir/invitation.json" ]; then
        kentongan node join "$dir" "$exchange/$member.invitation.json"
    fi
    exec kentongan node run --upgrade "$dir"
}

step=$1
shift
case $step in
node) make_node "$@" ;;
region) make_region "$@" ;;
run) run_node "$@" ;;
join) join_node "$@" ;;
*)
    echo "setup.sh: node, region, run or join" >&2
    exit 2
    ;;
esac
