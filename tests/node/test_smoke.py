from tests.node.world import filing
async def test_smoke(node):
    status, body, headers = await node.post(filing())
    print(status, body)
    assert status == 202
    await node.bus.until(lambda: node.bus.sent)
