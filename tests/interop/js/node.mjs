// A js-libp2p node over TCP, Noise and yamux, and its streams as async iterables with back-pressure.
import './polyfill.mjs'
import { generateKeyPairFromSeed, privateKeyFromRaw } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'

const MOST_UNREAD = 1 << 20
// Its windows grow to 16 MiB, and by default it resets a paused stream with more than 4 MiB to read: a window's worth
// has to fit.
const muxer = yamux({ streamOptions: { maxReadBufferLength: 1 << 25 } })

/** Make a node; `kind` is ed25519 or secp256k1, `secret` its private key in hex. */
export async function makeNode (kind, secret, { listen = true, services = {}, connectionManager = {} } = {}) {
  const raw = Buffer.from(secret, 'hex')
  return createLibp2p({
    privateKey: kind === 'ed25519' ? await generateKeyPairFromSeed('Ed25519', raw) : privateKeyFromRaw(raw),
    addresses: { listen: listen ? ['/ip4/127.0.0.1/tcp/0'] : [] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [muxer],
    connectionManager,
    services: { identify: identify(), ping: ping(), ...services }
  })
}

/** Yield what comes on a stream until its other end finishes; throw if it breaks. */
export async function * read (stream) {
  const queue = []
  let unread = 0
  let over = stream.readableEnded
  let failure
  let wake = () => {}
  const end = () => { over = true; wake() }
  stream.addEventListener('message', ({ data }) => {
    queue.push(data.subarray())
    unread += data.byteLength
    if (unread > MOST_UNREAD && stream.readStatus === 'readable') stream.pause()
    wake()
  })
  stream.addEventListener('end', end)
  stream.addEventListener('close', ({ error }) => { failure = error; end() })
  while (true) {
    while (queue.length > 0) {
      const data = queue.shift()
      unread -= data.byteLength
      yield data
      if (unread <= MOST_UNREAD && stream.readStatus === 'paused') stream.resume()
    }
    if (failure != null) throw failure
    if (over) return
    await new Promise(resolve => { wake = resolve })
  }
}

/** Send, and wait while the stream is full. Its own `onDrain` is good for one wait: the second returns at once. */
export async function write (stream, data) {
  if (stream.send(data)) return
  await new Promise((resolve, reject) => {
    const drained = () => { stream.removeEventListener('close', closed); resolve() }
    const closed = ({ error }) => { stream.removeEventListener('drain', drained); reject(error ?? new Error('closed')) }
    stream.addEventListener('drain', drained, { once: true })
    stream.addEventListener('close', closed, { once: true })
  })
}

export async function echo (stream) {
  for await (const data of read(stream)) await write(stream, data)
  await stream.close()
}

/** Read exactly as many bytes as asked for, from what `read` returned. */
export class Exactly {
  #pieces
  #rest = new Uint8Array(0)

  constructor (pieces) {
    this.#pieces = pieces
  }

  /** Whether anything follows. */
  async more () {
    if (this.#rest.length > 0) return true
    const { value, done } = await this.#pieces.next()
    if (done) return false
    this.#rest = value
    return true
  }

  async read (count) {
    while (this.#rest.length < count) {
      const { value, done } = await this.#pieces.next()
      if (done) throw new Error('the stream ended early')
      this.#rest = Buffer.concat([this.#rest, value])
    }
    const data = this.#rest.subarray(0, count)
    this.#rest = this.#rest.subarray(count)
    return data
  }
}
