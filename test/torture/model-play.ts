import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { Violation } from '../sim/history.ts'
import type { Explored, Model, Range } from './model-worker.ts'
import type { Asked, Play, Report } from './play.ts'
import { say } from './play.ts'

/** Between looks at the time and at signals. */
const schedulesAtOnce = 5_000
const tellEvery = 200_000

type Failure = NonNullable<Explored['failed']>

/**
 * The models of the commit and of sessions, under a deterministic scheduler, on all cores: a schedule is its seed, so ranges of
 * seeds can be explored side by side. When there is more to do, a quarter and an eighth of the time are theirs.
 */
export const modelPlay: Play = playOf('model', 1 / 4)
export const sessionModelPlay: Play = playOf('session-model', 1 / 8)

function playOf(model: Model, share: number): Play {
  return {
    workloads: [model],
    faults: [],
    counts: 'schedules',
    play: (asked, report) => play(model, share, asked, report),
  }
}

async function play(model: Model, share: number, asked: Asked, report: Report): Promise<void> {
  const untilMs = asked.workload === model ? asked.untilMs : Date.now() + (asked.untilMs - Date.now()) * share
  let seed = asked.seed
  let played = 0
  const failures: Failure[] = []
  const explore = async () => {
    const worker = new Worker(new URL('../../scripts/model-worker.js', import.meta.url))
    while (failures.length === 0 && Date.now() < untilMs && !asked.signal.aborted) {
      const range = { model, seed, schedules: schedulesAtOnce }
      seed += schedulesAtOnce
      const { failed, schedules } = await ask(worker, range)
      const told = Math.floor(played / tellEvery)
      played += schedules
      if (Math.floor(played / tellEvery) > told) say(`${model}: ${played} schedules`)
      if (failed !== undefined) failures.push(failed)
    }
    const ended = once(worker, 'exit')
    tell(worker, undefined)
    await ended
  }
  await Promise.all(Array.from({ length: availableParallelism() }, explore))
  // Workers that were still exploring may have found others.
  const [least] = failures.toSorted((a, b) => a.seed - b.seed)
  const found = least === undefined ? [] : [violationOf(model, least)]
  const failed = found.length
  const counts = { ok: played - failed, failed, unknown: 0, overlap: played }
  const cell = { workload: model, fault: 'all', passed: failed === 0, faultSeen: true, ...counts }
  report.add(cell, found, String(least?.seed ?? ''))
}

const tell = (worker: Worker, range: Range) => worker.postMessage(range)

async function ask(worker: Worker, range: Range): Promise<Explored> {
  const answered = once(worker, 'message') as Promise<[Explored]>
  tell(worker, range)
  const [explored] = await answered
  return explored
}

function violationOf(model: Model, { violations, trace }: Failure): Violation {
  return { kind: model, explanation: `${violations.join('; ')}: ${trace.join(' | ')}`, operations: [] }
}
