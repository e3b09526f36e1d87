// The session benchmark on js-libp2p: `node bench.mjs serve` says where it listens; `node bench.mjs call <address>
// <pid of the server>` does the work of tests/bench/session.py against it and prints the figures as JSON.
//
// Its limits on connections and streams are raised to what the work needs, since defaults would refuse most of it.
import { readFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { Exactly, echo, makeNode, read, write } from './node.mjs'
import { multiaddr } from '@multiformats/multiaddr'

const [ECHO, SINK, SOURCE] = ['/echo/1', '/sink/1', '/source/1']
const BULK_SECONDS = 1.5
const BULK_RUNS = 3
const CALL_SECONDS = 2
const CALLERS = 100
const CALL_BYTES = 1024
const CONNECTS = 40
const IDLE = 1000
const DIALLERS = 8
const IDLE_SECONDS = 60
const many = { maxInboundStreams: 10_000, maxOutboundStreams: 10_000 }
const unlimited = {
  maxConnections: 10_000,
  inboundConnectionThreshold: 1e9,
  maxIncomingPendingConnections: 10_000,
  maxParallelDials: 1000
}

const make = options => makeNode('secp256k1', randomBytes(32).toString('hex'), {
  connectionManager: unlimited, ...options
})
const now = () => performance.now() / 1000
const cpuHere = () => { const { user, system } = process.cpuUsage(); return (user + system) / 1e6 }

function cpuOf (pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

function memoryOf (pid) {
  return Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * 4096
}

async function sendFor (stream, seconds, size) {
  const block = new Uint8Array(size)
  const until = now() + seconds
  let count = 0
  while (now() < until) {
    await write(stream, block)
    count += size
  }
  return count
}

async function serve () {
  const node = await make()
  const handle = (protocol, work) => node.handle(
    protocol, stream => { work(stream).catch(error => stream.abort(error)) }, many
  )
  await handle(ECHO, echo)
  await handle(SINK, async stream => {
    let count = 0
    for await (const data of read(stream)) count += data.length
    const told = Buffer.alloc(8)
    told.writeBigUInt64BE(BigInt(count))
    await write(stream, told)
    await stream.close()
  })
  await handle(SOURCE, async stream => {
    const order = Buffer.from(await new Exactly(read(stream)).read(12))
    await sendFor(stream, order.readDoubleBE(0), order.readUInt32BE(8))
    await stream.close()
  })
  console.log(JSON.stringify({ address: String(node.getMultiaddrs()[0]), pid: process.pid }))
  process.stdin.resume().on('end', () => process.exit(0))
}

async function oneWay (connection, direction, size) {
  const stream = await connection.newStream(direction, many)
  let count = 0
  if (direction === SINK) {
    count = await sendFor(stream, BULK_SECONDS, size)
    const told = new Exactly(read(stream)).read(8)
    await stream.close()
    if (Buffer.from(await told).readBigUInt64BE() !== BigInt(count)) throw new Error('not all has arrived')
  } else {
    const order = Buffer.alloc(12)
    order.writeDoubleBE(BULK_SECONDS)
    order.writeUInt32BE(size, 8)
    const pieces = read(stream)
    await write(stream, order)
    for await (const data of pieces) count += data.length
    await stream.close()
  }
  return count
}

async function bulk (connection, pid, size) {
  const rates = []
  const costs = []
  for (const direction of [SINK, SOURCE]) {
    let best = 0
    let cost = Infinity
    for (let run = 0; run < BULK_RUNS; run++) {
      const [here, there, began] = [cpuHere(), cpuOf(pid), now()]
      const count = await oneWay(connection, direction, size)
      const taken = now() - began
      best = Math.max(best, count / taken / 1e6)
      cost = Math.min(cost, Math.max(cpuHere() - here, cpuOf(pid) - there) / count * 1e9)
    }
    rates.push(best)
    costs.push(cost)
  }
  return [Math.min(...rates), Math.max(...costs)]
}

async function call (connection, body) {
  const stream = await connection.newStream(ECHO, many)
  const answer = new Exactly(read(stream)).read(body.length)
  await write(stream, body)
  await answer
  await stream.close()
}

async function calls (connection) {
  const body = new Uint8Array(CALL_BYTES)
  const began = now()
  let count = 0
  const caller = async () => {
    while (now() < began + CALL_SECONDS) {
      await call(connection, body)
      count++
    }
  }
  await Promise.all(Array.from({ length: CALLERS }, caller))
  return count / (now() - began)
}

async function connects (address, pid) {
  const nodes = []
  for (let at = 0; at <= CONNECTS; at++) nodes.push(await make({ listen: false }))
  await nodes.pop().dial(address)
  const [here, there] = [cpuHere(), cpuOf(pid)]
  const times = []
  for (const node of nodes) {
    const began = now()
    await node.dial(address)
    times.push((now() - began) * 1e3)
  }
  const busier = Math.max(cpuHere() - here, cpuOf(pid) - there)
  for (const node of nodes) await node.stop()
  times.sort((a, b) => a - b)
  return [times[times.length >> 1], busier / CONNECTS * 1e3]
}

async function idle (address, pid) {
  const before = memoryOf(pid)
  const held = new Set()
  const until = now() + IDLE_SECONDS
  const hold = async () => { // a node each, since one dials an address once at a time
    const node = await make({ listen: false })
    for (let at = 0; at < IDLE / DIALLERS && now() < until; at++) held.add(await node.dial(address, { force: true }))
  }
  await Promise.allSettled(Array.from({ length: DIALLERS }, hold))
  await new Promise(resolve => setTimeout(resolve, 500))
  const each = (memoryOf(pid) - before) / held.size / 1024
  let served = 0
  for (const connection of held) {
    await call(connection, new Uint8Array(1)).then(() => served++, () => {})
  }
  return [served, each]
}

if (process.argv[2] === 'serve') {
  await serve()
} else {
  const [address, pid, works] = [multiaddr(process.argv[3]), Number(process.argv[4]), process.argv[5]]
  const figures = {}
  if (works === 'idle') {
    [figures.idle_connections_served, figures.idle_connection] = await idle(address, pid)
  } else {
    [figures.connect, figures.handshake_cpu] = await connects(address, pid)
    const connection = await (await make({ listen: false })).dial(address);
    [figures.bulk_256k] = await bulk(connection, pid, 262_144);
    [figures.bulk_64k, figures.bulk_cpu] = await bulk(connection, pid, 65_536)
    figures.new_stream_calls = await calls(connection)
  }
  console.log(JSON.stringify(figures))
  process.exit(0)
}
