import { hash } from 'node:crypto'

/**
 * HMAC-SHA-256 (RFC 2104) of messages that begin alike. What depends on the key and on the beginning is put together once;
 * a message then costs two digests, where an object for each costs several times that. `mac.test.ts` holds it to Node's.
 */
export interface MacKey {
  /** The key's inner pad, the beginning of every message, and room in which the rest of one is put. */
  inner: Buffer
  readonly restAt: number
  /** The key's outer pad, and room for a digest. */
  readonly outer: Buffer
}

const blockBytes = 64
const digestBytes = 32
const innerByte = 0x36
const outerByte = 0x5c

export function macKey(secret: Uint8Array, beginning: Uint8Array): MacKey {
  const block = Buffer.alloc(blockBytes)
  block.set(secret.length > blockBytes ? hash('sha256', secret, 'buffer') : secret)
  const padded = (byte: number) => block.map((of) => of ^ byte)
  const inner = Buffer.concat([padded(innerByte), beginning])
  return { inner, restAt: inner.length, outer: Buffer.concat([padded(outerByte), Buffer.alloc(digestBytes)]) }
}

/**
 * Of the bytes between two places, which follow the key's beginning: 32 characters of one byte each (`binary`), which are
 * made faster than a buffer.
 */
export function macOf(key: MacKey, bytes: Buffer, from: number, end: number): string {
  const length = key.restAt + end - from
  if (length > key.inner.length) key.inner = Buffer.concat([key.inner.subarray(0, key.restAt)], 2 * length)
  bytes.copy(key.inner, key.restAt, from, end)
  key.outer.write(hash('sha256', key.inner.subarray(0, length), 'binary'), blockBytes, 'latin1')
  return hash('sha256', key.outer, 'binary')
}
