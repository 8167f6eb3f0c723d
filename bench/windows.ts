import { performance } from 'node:perf_hooks'
import { timed } from './work.ts'

/** The same work by several at once: a number of times, or for a while. */

/** One turn of the worker of that number. */
export type Work = (worker: number) => Promise<unknown>

export interface Window {
  readonly perSecond: number
  readonly durationsMs: readonly number[]
}

export async function workTimes(workers: number, work: Work, times: number): Promise<void> {
  let left = times
  await atOnce(workers, async (worker) => {
    while (left-- > 0) await work(worker)
  })
}

export async function workFor(workers: number, work: Work, forMs: number): Promise<Window> {
  const durationsMs: number[] = []
  const started = performance.now()
  await atOnce(workers, async (worker) => {
    while (performance.now() - started < forMs) durationsMs.push(await timed(() => work(worker)))
  })
  return { perSecond: (durationsMs.length * 1_000) / (performance.now() - started), durationsMs }
}

function atOnce(workers: number, work: Work): Promise<unknown> {
  return Promise.all(Array.from({ length: workers }, (_, worker) => work(worker)))
}
