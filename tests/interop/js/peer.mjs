// A js-libp2p peer, steered by JSON lines: {"id", "do", ...} in, {"id", "ok"} or {"id", "error"} out.
//
//   node peer.mjs <secp256k1|ed25519> <secret in hex> <network> [node]
//
// The first line out says who and where it is. With `node` it says our hello, and so is a node of the network and
// not a guest. What it can do is `actions` below.
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { Exactly, echo, makeNode, read, write } from './node.mjs'
import { gossipsub } from '@libp2p/gossipsub'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { decode, encode } from 'cborg'

const [kind, secret, network, role] = process.argv.slice(2)
const ECHO = '/interop/echo/1'
const HELLO = `/golem-p2p/${network}/hello/1`
const BUS = `/golem-p2p/${network}/bus/1`
const LONE = `/golem-p2p/${network}/bus/lone/1`
const LARGE_BYTES = 32 * 1024
const text = new TextEncoder()

const namespace = 'golem-p2p'
const node = await makeNode(kind, secret, {
  services: {
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true }),
    dht: kadDHT({
      protocol: `/golem-p2p/${network}/kad/1.0.0`,
      clientMode: false,
      peerInfoMapper: passthroughMapper,
      allowQueryWithZeroPeers: true,
      validators: { [namespace]: () => {} },
      selectors: { [namespace]: () => 0 }
    })
  }
})

// Frames of ours: four bytes of length, then CBOR with its keys in length-first order, which is cborg's default.

function framed (message) {
  const body = encode(message)
  const frame = Buffer.alloc(4 + body.length)
  frame.writeUInt32BE(body.length)
  frame.set(body, 4)
  return frame
}

async function nextFrame (exactly) {
  const size = (await exactly.read(4)).slice()
  return decode(await exactly.read(Buffer.from(size).readUInt32BE()))
}

function hello () {
  const addresses = node.getMultiaddrs().map(String)
  return framed({ network, agent: 'interop js', version: 1, oldest: 1, addresses, peers: [] })
}

await node.handle(ECHO, stream => { echo(stream).catch(error => stream.abort(error)) })
if (role === 'node') {
  await node.handle(HELLO, async stream => {
    await nextFrame(new Exactly(read(stream)))
    await write(stream, hello())
    await stream.close()
  })
  await node.handle([BUS, LONE], stream => { serveCalls(stream).catch(error => stream.abort(error)) })
}

async function serveCalls (stream) {
  const frames = new Exactly(read(stream))
  while (await frames.more()) {
    const { id, body } = await nextFrame(frames)
    await write(stream, framed({ t: 'reply', id, body: Buffer.concat([text.encode('js says '), body]) }))
  }
  await stream.close()
}

const heard = new Map()
const waiting = new Map()
node.services.pubsub.addEventListener('message', ({ detail: { topic, data, from } }) => {
  const message = { data: Buffer.from(data).toString('base64'), from: String(from) }
  const waiter = waiting.get(topic)?.shift()
  if (waiter != null) waiter(message)
  else heard.set(topic, [...(heard.get(topic) ?? []), message])
})

function pattern (size) {
  const data = new Uint8Array(size)
  for (let at = 0; at < size; at++) data[at] = at * 31 + (at >> 8)
  return data
}

async function openStream (peer, protocol) {
  return node.dialProtocol(peerIdFromString(peer), protocol)
}

async function last (events, wanted) {
  let found
  for await (const event of events) {
    const value = wanted(event)
    if (value != null) found = value
  }
  return found
}

const actions = {
  async dial ({ address }) {
    return String((await node.dial(multiaddr(address))).remotePeer)
  },
  async hello ({ peer }) {
    const stream = await openStream(peer, HELLO)
    await write(stream, hello())
    await stream.close()
    return nextFrame(new Exactly(read(stream)))
  },
  async ping ({ peer }) {
    return node.services.ping.ping(peerIdFromString(peer))
  },
  async identify ({ peer }) {
    const connection = node.getConnections(peerIdFromString(peer))[0]
    const { protocols, agentVersion } = await node.services.identify.identify(connection)
    return { protocols, agent: agentVersion }
  },
  async echo ({ peer, bytes }) {
    const stream = await openStream(peer, ECHO)
    const data = pattern(bytes)
    const send = async () => {
      for (let at = 0; at < bytes; at += 65536) await write(stream, data.subarray(at, at + 65536))
      await stream.close()
    }
    const receive = async () => {
      const hash = createHash('sha256')
      for await (const piece of read(stream)) hash.update(piece)
      return hash.digest('hex')
    }
    return (await Promise.all([receive(), send()]))[0]
  },
  async call ({ peer, address, body }) {
    const bytes = Buffer.from(body, 'base64')
    const stream = await openStream(peer, bytes.length > LARGE_BYTES ? LONE : BUS)
    const frames = new Exactly(read(stream))
    await write(stream, framed({ t: 'call', id: 1, address, body: bytes }))
    const answer = await nextFrame(frames)
    await stream.close()
    return { ...answer, body: answer.body == null ? null : Buffer.from(answer.body).toString('base64') }
  },
  async join ({ topic }) {
    node.services.pubsub.subscribe(topic)
  },
  async mesh ({ topic }) {
    return node.services.pubsub.getSubscribers(topic).map(String)
  },
  async publish ({ topic, data }) {
    const { recipients } = await node.services.pubsub.publish(topic, Buffer.from(data, 'base64'))
    return recipients.map(String)
  },
  async heard ({ topic }) {
    const first = heard.get(topic)?.shift()
    if (first != null) return first
    return new Promise(resolve => waiting.set(topic, [...(waiting.get(topic) ?? []), resolve]))
  },
  async put ({ key, value }) {
    const events = node.services.dht.put(Buffer.from(key, 'base64'), Buffer.from(value, 'base64'))
    return await last(events, event => event.name === 'PEER_RESPONSE' ? String(event.from) : null)
  },
  async get ({ key }) {
    const value = await last(node.services.dht.get(Buffer.from(key, 'base64')), event => event.value)
    return value == null ? null : Buffer.from(value).toString('base64')
  },
  async findPeer ({ peer }) {
    const found = await last(node.services.dht.findPeer(peerIdFromString(peer)), event => event.peer)
    return found?.multiaddrs == null ? null : found.multiaddrs.map(String)
  },
  async peers () {
    return node.getPeers().map(String)
  },
  async hangUp ({ peer }) {
    await node.hangUp(peerIdFromString(peer))
  }
}

const say = message => process.stdout.write(JSON.stringify(message) + '\n')

say({ peer: String(node.peerId), address: String(node.getMultiaddrs()[0]) })
for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: action, ...rest } = JSON.parse(line)
  actions[action](rest).then(
    ok => say({ id, ok: ok ?? null }),
    error => say({ id, error: String(error?.stack ?? error) })
  )
}
process.exit(0)
