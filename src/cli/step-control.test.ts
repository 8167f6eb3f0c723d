import { EventEmitter } from 'node:events'
import { expect, test } from 'vitest'
import { noStep } from '../base/step.ts'
import type { StepOrder, StepTold } from './step-control.ts'
import { stepControl } from './step-control.ts'

/** A parent at the other end of a channel. */
class Parent extends EventEmitter {
  readonly told: StepTold[] = []
  readonly send = (message: StepTold) => this.told.push(message)

  order(order: StepOrder): void {
    this.emit('message', order)
  }
}

async function hasEnded(step: Promise<void>): Promise<boolean> {
  return Promise.race([step.then(() => true), new Promise<boolean>((resolve) => setImmediate(resolve, false))])
}

test('production stops at no step, whatever a parent says', () => {
  expect(stepControl({}, new Parent())).toBe(noStep)
  expect(stepControl({ HOLDFAST_PAUSE_AT: 'local stamp' }, { on: () => undefined })).toBe(noStep)
})

test('a step that is named is told and waited at once, until the parent lets it go on', async () => {
  const parent = new Parent()
  const onStep = stepControl({ HOLDFAST_PAUSE_AT: 'local stamp on a' }, parent)
  await onStep('local begin', { shard: 'a' })
  await onStep('local stamp', { shard: 'b' })
  const paused = onStep('local stamp', { shard: 'a' })
  expect(parent.told).toEqual([{ reached: 'local stamp', where: { shard: 'a' } }])
  expect(await hasEnded(paused)).toBe(false)
  await onStep('local stamp', { shard: 'a' })
  parent.order({ goOn: true })
  await paused
})

test('the parent names the next step, and on which shard', async () => {
  const parent = new Parent()
  const onStep = stepControl({ HOLDFAST_PAUSE_AT: '' }, parent)
  await onStep('closer move', { shard: 'b' })
  parent.order({ pauseAt: 'closer move', shard: 'b' })
  await onStep('closer move', { shard: 'a' })
  expect(await hasEnded(onStep('closer move', { shard: 'b' }))).toBe(false)
  expect(parent.told).toEqual([{ willPauseAt: 'closer move' }, { reached: 'closer move', where: { shard: 'b' } }])
})
