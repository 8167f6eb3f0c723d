import type { MessagePort } from 'node:worker_threads'
import { realParts } from '../sim/commit-parts.ts'
import { explore } from '../sim/commit-play.ts'
import { exploreSessions } from '../sim/session-explore.ts'

/** The models, as `--workload` names them. */
export type Model = 'model' | 'session-model'

/** Seeds to explore one after the other; undefined when there are no more. */
export type Range = { readonly model: Model; readonly seed: number; readonly schedules: number } | undefined

export interface Explored {
  readonly schedules: number
  readonly failed:
    | { readonly seed: number; readonly violations: readonly string[]; readonly trace: readonly string[] }
    | undefined
}

const explorers: Readonly<Record<Model, (range: NonNullable<Range>) => Explored>> = {
  model: (range) => explore(realParts, range),
  'session-model': (range) => {
    const { schedules, failed } = exploreSessions(range)
    if (failed === undefined) return { schedules, failed }
    const trace = failed.actions.map(({ do: what, a, b, c }) => `${what} ${a} ${b} ${c}`)
    return { schedules, failed: { seed: failed.seed, violations: [failed.broken], trace } }
  },
}

/** Answers each range that comes to the port with what came of it, until no more comes. */
export function answer(port: MessagePort): Promise<void> {
  return new Promise((resolve) => {
    port.on('message', (range: Range) => {
      if (range !== undefined) return port.postMessage(explorers[range.model](range))
      port.close()
      resolve()
    })
  })
}
