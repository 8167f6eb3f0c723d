import { present } from '../../src/base/assert.ts'
import type { ResolverEffect, ResolverEvent, ResolverState } from '../../src/transaction/resolver-protocol.ts'
import { beginResolving } from '../../src/transaction/resolver-protocol.ts'
import type { World } from './commit-world.ts'
import { home } from './commit-world.ts'

/** The shell around `resolver-protocol.ts`, as far as messages go: takes up a branch that is prepared at the primary it knows. */
export function resolve(world: World, gateway: number, participant: number, id: number, isOld: boolean): void {
  world.resolving += 1
  const homePrimary = present(world.known[gateway]?.[home], 'a known home')
  const there = present(world.known[gateway]?.[participant], 'a known participant')
  const begun = beginResolving(isOld)
  let state: ResolverState = begun.state
  const hear = (event: ResolverEvent) => {
    const next = world.parts.stepResolver(state, event)
    state = next.state
    if (next.effect !== undefined) carryOut(next.effect)
    if (state.kind !== 'done') return
    world.resolving -= 1
    // Another may have settled it by now, and what a primary of the past holds prepared is nobody's any more.
    const isInDoubt = there.isCurrent && there.branch(id) === 'prepared'
    if (state.resolution.kind === 'needs person' && isInDoubt) world.stuck.push(`${id} at ${participant}`)
  }
  const failed = (why: string, needsPerson = false): ResolverEvent => ({ kind: 'failed', why, needsPerson })
  const carryOut = (effect: ResolverEffect) => {
    switch (effect.kind) {
      case 'read record':
        return world.readRecord(gateway, id, (answer) => {
          if (answer.kind === 'none') return hear({ ...answer, kind: 'no record' })
          hear(answer.kind === 'record' ? answer : failed(answer.kind))
        })
      case 'presume abort':
        return world.presumeAbort(gateway, id, (answer) => {
          hear(answer.kind === 'record' ? answer : failed(answer.kind, answer.kind === 'person'))
        })
      case 'pass barrier':
        return world.barrier(gateway, homePrimary, (passed) =>
          hear(passed ? { kind: 'barrier passed' } : failed('barrier')),
        )
      case 'settle':
        return world.settle(gateway, participant, id, effect.decision, homePrimary.epoch, (answer) => {
          hear(answer.kind === 'ok' ? { kind: 'settled' } : failed(answer.kind, answer.kind === 'person'))
        })
    }
  }
  carryOut(present(begun.effect, 'it begins by reading'))
}
