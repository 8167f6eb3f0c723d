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
  await pause(500)
  try {
    return await measure()
  } finally {
    over = true
    await working
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
  const underway: Promise<void>[] = []
  while (!isOver()) {
    underway.push(commitOverBoth(fleet))
    await pause(globalEveryMs)
  }
  await Promise.all(underway)
}
