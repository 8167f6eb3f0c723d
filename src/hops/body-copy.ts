/**
 * A copy of a body that is being sent, for a redirect that asks for it again.
 *
 * Nobody knows before the answer whether one will. What is copied of a body and not read stays in memory whole, so it is read
 * along, and no more is kept than a redirect may need: a longer body is let go of, and goes on to be sent alone.
 */
export const copiedBytesMax = 1024 * 1024

export class BodyCopy {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>
  readonly #read: Promise<ArrayBuffer | undefined>

  constructor(body: ReadableStream<Uint8Array<ArrayBuffer>>) {
    this.#reader = body.getReader()
    this.#read = this.#readAll()
    // A body that fails is told by whoever sends it.
    this.#read.catch(() => undefined)
  }

  /** Throws a `TypeError`, as for a stream, when it was longer. */
  async whole(): Promise<ArrayBuffer> {
    const whole = await this.#read
    if (whole !== undefined) return whole
    throw new TypeError(`a redirect asks for a body again that is longer than ${copiedBytesMax} bytes`)
  }

  /** Nobody asks for it any more. */
  end(): void {
    this.#reader.cancel().catch(() => undefined)
  }

  async #readAll(): Promise<ArrayBuffer | undefined> {
    const chunks: Uint8Array<ArrayBuffer>[] = []
    for (let bytes = 0; ; ) {
      const { done, value } = await this.#reader.read()
      if (done) return new Blob(chunks).arrayBuffer()
      bytes += value.length
      if (bytes > copiedBytesMax) {
        this.end()
        return undefined
      }
      chunks.push(value)
    }
  }
}
