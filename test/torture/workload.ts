import { numbersFrom } from '../sim/commit-play.ts'
import type { Violation } from '../sim/history.ts'
import type { TestFleet } from '../support/fleet.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Client } from './client.ts'

/** What clients do in a cell. One is made for each cell. */
export interface Workload<History = unknown> {
  /** Before any fault. */
  setUp(at: Client): Promise<void>
  /** One operation of one client; tells how it ended, and never rejects. What it does at once goes beside, to another gateway. */
  operate(client: number, at: Client, beside: Client): Promise<'ok' | 'failed' | 'unknown'>
  /**
   * After everything is healed: a last look. Gives all that was seen, as the checker takes it and JSON keeps it. One that
   * rejects is asked again.
   */
  end(at: Client): Promise<History>
}

/** Where a workload runs. */
export interface Stage {
  readonly fleet: TestFleet
  readonly gateway: Gateway
  readonly sources: Sources
  /** How many clients there are, by number from 0. */
  readonly clients: number
}

/** A workload, and what must hold of its history. The checker knows nothing of who made it. */
export interface Kind {
  make(stage: Stage): Workload
  check(history: unknown): Violation[]
}

export function kindOf<History>(
  make: (stage: Stage) => Workload<History>,
  check: (history: History) => Violation[],
): Kind {
  return { make, check: (history) => check(history as History) }
}

/** A random source with a seed: a number from 0 up to, and without, the given one. */
export type Below = (limit: number) => number

/** A source for each who draws, so that what one of them gets does not depend on how fast the others are. */
export class Sources {
  readonly #seed: string
  readonly #known = new Map<string, Below>()

  constructor(seed: string) {
    this.#seed = seed
  }

  of(name: string): Below {
    const known = this.#known.get(name)
    if (known !== undefined) return known
    const next = numbersFrom(seedOf(`${this.#seed} ${name}`))
    const below: Below = (limit) => next() % limit
    this.#known.set(name, below)
    return below
  }
}

/** A number for a text (FNV-1a, 32 bits). */
function seedOf(text: string): number {
  let hash = 0x811c9dc5
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x01000193)
  return hash >>> 0
}
