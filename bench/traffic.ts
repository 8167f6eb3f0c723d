import type { Fleet } from 'holdfast'
import { commitAtHome, commitOverBoth, pause } from './work.ts'

/** What else a fleet does while something is measured. */

const writers = 4
const globalEveryMs = 100

/** The work begins before what is measured, and ends after it. */
export async function whileWorking<T>(
  measure: () => Promise<T>,
  work: (isOver: () => boolean) => Promise<void>,
): Promise<T> {
  let over = false
  const working = work(() => over)
  // What it fails with is told at the end: unheard until then, it would end the process, and leave the servers behind.
  working.catch(() => undefined)
  await pause(500)
  try {
    return await measure()
  } finally {
    over = true
    await working
  }
}

/** Work that is begun whether what was begun before has ended or not. */
export class Offered<T> {
  readonly #underway: Promise<T>[] = []

  get count(): number {
    return this.#underway.length
  }

  add(work: Promise<T>): void {
    // Heard of at the end.
    work.catch(() => undefined)
    this.#underway.push(work)
  }

  /** What came of each. Rejects with what the first of them failed with. */
  ended(): Promise<T[]> {
    return Promise.all(this.#underway)
  }
}

/** Small commits of a tenant at its home, one after the other by several. */
export async function keepWriting(fleet: Fleet, tenant: string, isOver: () => boolean): Promise<void> {
  const write = async (worker: number) => {
    while (!isOver()) await commitAtHome(fleet, tenant, `account-${worker}`)
  }
  await Promise.all(Array.from({ length: writers }, (_, worker) => write(worker)))
}

/** Ten global commits a second. */
export async function keepCommitting(fleet: Fleet, isOver: () => boolean): Promise<void> {
  const underway = new Offered<void>()
  while (!isOver()) {
    underway.add(commitOverBoth(fleet))
    await pause(globalEveryMs)
  }
  await underway.ended()
}
