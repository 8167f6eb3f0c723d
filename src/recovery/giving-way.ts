import type { RecoveryContext } from './recovery.ts'

/**
 * For a restore that makes way: once the signal is aborted it ends as by any failure, with the signal's reason, at the step, the shard, the
 * look at a replay, the segment of a log, the piece of a base backup or the query of a check that it has come to.
 */
export function givingWay(context: RecoveryContext, signal: AbortSignal): RecoveryContext {
  return { ...context, signal, onStep: (step, where) => unlessAborted(signal, () => context.onStep(step, where)) }
}

async function unlessAborted(signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  signal.throwIfAborted()
  let stop = () => {}
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(signal.reason as Error)
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    await Promise.race([work(), aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
