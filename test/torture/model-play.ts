import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { Exploration } from '../sim/commit-play.ts'
import type { Violation } from '../sim/history.ts'
import type { Range } from './model-worker.ts'
import type { Asked, Play, Report } from './play.ts'
import { say } from './play.ts'

const model = 'model'
/** Between looks at the time and at signals. */
const schedulesAtOnce = 5_000
const tellEvery = 200_000

type Failure = NonNullable<Exploration['failed']>

/**
 * The model of the commit, under a deterministic scheduler, on all cores: a schedule is its seed, so ranges of seeds can be
 * explored side by side. A quarter of the time is its own when there is more to do.
 */
export const modelPlay: Play = { workloads: [model], faults: [], counts: 'schedules', play }

async function play(asked: Asked, report: Report): Promise<void> {
  const untilMs = asked.workload === model ? asked.untilMs : Date.now() + (asked.untilMs - Date.now()) / 4
  let seed = asked.seed
  let played = 0
  const failures: Failure[] = []
  const explore = async () => {
    const worker = new Worker(new URL('../../scripts/model-worker.js', import.meta.url))
    while (failures.length === 0 && Date.now() < untilMs && !asked.signal.aborted) {
      const range = { seed, schedules: schedulesAtOnce }
      seed += schedulesAtOnce
      const { failed, schedules } = await ask(worker, range)
      const told = Math.floor(played / tellEvery)
      played += schedules
      if (Math.floor(played / tellEvery) > told) say(`model: ${played} schedules`)
      if (failed !== undefined) failures.push(failed)
    }
    const ended = once(worker, 'exit')
    tell(worker, undefined)
    await ended
  }
  await Promise.all(Array.from({ length: availableParallelism() }, explore))
  // Workers that were still exploring may have found others.
  const [least] = failures.toSorted((a, b) => a.seed - b.seed)
  const found = least === undefined ? [] : [violationOf(least)]
  const failed = found.length
  const counts = { ok: played - failed, failed, unknown: 0, overlap: played }
  const cell = { workload: model, fault: 'all', passed: failed === 0, faultSeen: true, ...counts }
  report.add(cell, found, String(least?.seed ?? ''))
}

const tell = (worker: Worker, range: Range) => worker.postMessage(range)

async function ask(worker: Worker, range: Range): Promise<Exploration> {
  const answered = once(worker, 'message') as Promise<[Exploration]>
  tell(worker, range)
  const [explored] = await answered
  return explored
}

function violationOf({ violations, trace }: Failure): Violation {
  return { kind: model, explanation: `${violations.join('; ')}: ${trace.join(' | ')}`, operations: [] }
}
