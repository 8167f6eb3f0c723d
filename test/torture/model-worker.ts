import type { MessagePort } from 'node:worker_threads'
import { realParts } from '../sim/commit-parts.ts'
import { explore } from '../sim/commit-play.ts'

/** Seeds to explore one after the other; undefined when there are no more. */
export type Range = { readonly seed: number; readonly schedules: number } | undefined

/** Answers each range that comes to the port with what came of it, until no more comes. */
export function answer(port: MessagePort): Promise<void> {
  return new Promise((resolve) => {
    port.on('message', (range: Range) => {
      if (range !== undefined) return port.postMessage(explore(realParts, range))
      port.close()
      resolve()
    })
  })
}
