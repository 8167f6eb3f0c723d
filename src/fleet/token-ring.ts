import type { Clock } from '../base/clock.ts'
import { ringLeaseMs, type TokenKeys } from '../session/key-rotation.ts'
import type { KeyRing } from '../session/token.ts'

/**
 * The keys of session tokens as one gateway knows them: those of the file that the supervisor replaces, used for at most a
 * lease after they were read (S13). Nobody has to be told of a new key, and a gateway that slept reads before it judges.
 */
export class TokenRing {
  readonly #read: () => Promise<TokenKeys>
  readonly #clock: Clock
  #ring: KeyRing
  /** Before the read began: what was written since may be missing. */
  #readMs: number

  private constructor(read: () => Promise<TokenKeys>, clock: Clock, ring: KeyRing, readMs: number) {
    this.#read = read
    this.#clock = clock
    this.#ring = ring
    this.#readMs = readMs
  }

  static async open(read: () => Promise<TokenKeys>, clock: Clock): Promise<TokenRing> {
    const readMs = clock.monotonicMs()
    return new TokenRing(read, clock, toKeyRing(await read()), readMs)
  }

  /** Resolves when the ring is within its lease: then it has the key of every token that was issued before the call. */
  async renew(): Promise<void> {
    const calledMs = this.#clock.monotonicMs()
    while (calledMs - this.#readMs > ringLeaseMs) {
      const readMs = this.#clock.monotonicMs()
      const ring = toKeyRing(await this.#read())
      if (readMs < this.#readMs) continue
      this.#ring = ring
      this.#readMs = readMs
    }
  }

  /** As it was read last. */
  latest(): KeyRing {
    return this.#ring
  }
}

function toKeyRing({ current, keys }: TokenKeys): KeyRing {
  return {
    current,
    keys: new Map(Object.entries(keys).map(([id, secret]) => [Number(id), Buffer.from(secret, 'base64url')])),
  }
}
