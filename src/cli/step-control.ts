import type { OnStep, StepName, StepPlace } from '../base/step.ts'
import { noStep } from '../base/step.ts'

/**
 * What tests do to a process, a gateway's or a supervisor's, at a named step. Composed here and nowhere else: the protocols only know that they
 * reached a step.
 *
 * `HOLDFAST_CRASH_AT` names a step, and the process kills itself there as `kill -9` would, so that nothing is flushed,
 * released or told. `HOLDFAST_PAUSE_AT` names one, as `resolver scan on us-east/treasury`, or is empty: the process stops
 * there, tells its parent, and goes on when it is told to. That needs the channel of a parent.
 */
export function stepControl(env: Readonly<Record<string, string | undefined>>, channel: StepChannel): OnStep {
  const { HOLDFAST_CRASH_AT: crashAt, HOLDFAST_PAUSE_AT: pauseAt } = env
  if (crashAt !== undefined) return crashing(crashAt)
  if (pauseAt !== undefined && channel.send !== undefined) return pausing(pauseAt, channel)
  return noStep
}

/** As much of a process with a parent as this needs. */
export interface StepChannel {
  readonly send?: ((message: StepTold) => unknown) | undefined
  on(event: 'message', listener: (order: StepOrder) => void): unknown
}

/** From the parent. The first time that the step is reached after `pauseAt`, on that shard if one is named, stops there. */
export type StepOrder = { readonly pauseAt: StepName; readonly shard: string | null } | { readonly goOn: true }

/** To the parent. */
export type StepTold = { readonly willPauseAt: StepName } | { readonly reached: StepName; readonly where: StepPlace }

function crashing(step: string): OnStep {
  return (reached) => {
    if (reached === step) process.kill(process.pid, 'SIGKILL')
    return Promise.resolve()
  }
}

function pausing(first: string, channel: StepChannel): OnStep {
  const [step = '', shard = null] = first.split(' on ')
  let awaited: { readonly step: string; readonly shard: string | null } | undefined = { step, shard }
  let goOn = () => {}
  channel.on('message', (order) => {
    if ('pauseAt' in order) {
      awaited = { step: order.pauseAt, shard: order.shard }
      channel.send?.({ willPauseAt: order.pauseAt })
    } else if ('goOn' in order) {
      goOn()
    }
  })
  return (reached, where) => {
    if (awaited?.step !== reached || (awaited.shard !== null && awaited.shard !== where.shard)) return Promise.resolve()
    awaited = undefined
    const told = new Promise<void>((resolve) => {
      goOn = resolve
    })
    channel.send?.({ reached, where })
    return told
  }
}
