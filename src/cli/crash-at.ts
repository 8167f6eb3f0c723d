import type { OnStep } from '../base/step.ts'

/**
 * Crash tests name a step in the environment of a gateway process; it then kills itself there as `kill -9` would, so that
 * nothing is flushed, released or told. Composed here and nowhere else: the protocols only know that they reached a step.
 */
export function crashAt(step: string | undefined): OnStep | undefined {
  if (step === undefined) return undefined
  return (reached) => {
    if (reached === step) process.kill(process.pid, 'SIGKILL')
    return Promise.resolve()
  }
}
