import { present, unreachable } from '../base/assert.ts'
import type { HoldfastError } from '../base/errors.ts'
import type { StepName } from '../base/step.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs, maxHlc } from '../hlc/hlc.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import { ConnectionLost } from '../postgres/failure.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { judgeCommit } from './acknowledgement.ts'
import { noteAdoption } from './adoption.ts'
import { unexpectedRows } from './batch.ts'
import { unsendable } from './caller-statement.ts'
import type { CommitEnd, CommitPlan } from './commit-plan.ts'
import type { CommitEffect, CommitEvent, CommitState, Transition } from './commit-protocol.ts'
import { beginCommit, eventOfDefect, step } from './commit-protocol.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryTarget } from './environment.ts'
import { askOutcome, eventOfAnswer } from './outcome.ts'
import { confirmReader, prepareParticipant } from './participant.ts'
import { settleBranch } from './settlement.ts'
import type { ShardTransaction } from './shard-transaction.ts'
import { toHoldfastError } from './sql-errors.ts'
import * as decisions from './decision-store.ts'
import * as store from './transaction-store.ts'

/** Commits, or tells why not. Never rejects. What is left to settle goes on in the background. */
export function commitTransaction(environment: TransactionEnvironment, plan: CommitPlan): Promise<CommitEnd> {
  return new Coordinator(environment, plan).run()
}

/** Carries out what `commit-protocol.ts` decides, and tells it what came of it. */
class Coordinator {
  readonly #environment: TransactionEnvironment
  readonly #plan: CommitPlan
  readonly #prepared = new Map<ShardName, Lsn>()
  readonly #homeBatchTravelsLast: boolean
  readonly #homeIsBusy: boolean
  readonly #names: readonly ShardName[]
  #state: CommitState
  #position: Lsn | undefined
  #finish: (end: CommitEnd) => void = () => {}

  constructor(environment: TransactionEnvironment, plan: CommitPlan) {
    this.#environment = environment
    this.#plan = plan
    // Counts that decide are looked at before the commit is sent; with participants it costs nothing to look early.
    this.#homeBatchTravelsLast =
      plan.participants.length + plan.readers.length === 0 && plan.home.batch.every(({ rows }) => rows === undefined)
    this.#homeIsBusy = plan.home.batch.length > 0 && !this.#homeBatchTravelsLast
    this.#names = plan.participants.map(({ shard }) => shard.name)
    this.#state = this.#begin().state
  }

  run(): Promise<CommitEnd> {
    const ended = new Promise<CommitEnd>((resolve) => {
      this.#finish = resolve
    })
    this.#enter(this.#begin())
    if (this.#homeIsBusy) this.#perform(() => this.#runHomeBatch())
    for (const participant of this.#plan.participants) this.#perform(() => this.#prepare(participant))
    for (const reader of this.#plan.readers) this.#perform(() => this.#confirm(reader))
    return ended
  }

  #begin(): Transition {
    return beginCommit([...this.#names, ...this.#plan.readers.map(({ shard }) => shard.name)], this.#homeIsBusy)
  }

  #enter(transition: Transition): void {
    this.#state = transition.state
    for (const effect of transition.effects) this.#carryOut(effect)
    const end = this.#end()
    if (end !== undefined) this.#finish(end)
  }

  #end(): CommitEnd | undefined {
    const state = this.#state
    if (state.kind === 'aborted' || state.kind === 'ambiguous') return state
    if (state.kind !== 'committed') return undefined
    const position = present(this.#position, 'a commit comes with its position')
    return { kind: 'committed', timestamp: state.timestamp, position, prepared: this.#prepared }
  }

  #carryOut(effect: CommitEffect): void {
    switch (effect.kind) {
      case 'observe':
        return this.#perform(() => this.#observe(effect.after))
      case 'decide':
        return this.#perform(() => this.#decide(maxHlc(effect.after, this.#plan.frontier)))
      case 'ask':
        return this.#perform(() => this.#ask())
      case 'roll back home':
        return this.#environment.background.run(() => this.#plan.home.rollBack())
      case 'commit branch':
        return this.#settle(effect.shard, { outcome: 'COMMITTED', commitTimestamp: effect.timestamp })
      case 'roll back branch':
        return this.#settle(effect.shard, { outcome: 'ABORTED' })
      default:
        return unreachable(effect)
    }
  }

  /**
   * Runs an effect that answers with an event. A caller that is answered before its last effect, as when one
   * participant says no, does not wait for the others; `drain` does. A defect of ours is an event too: nothing
   * may go on to a decision after the caller was told of it.
   */
  #perform(effect: () => Promise<CommitEvent>): void {
    this.#environment.background.run(async () => {
      try {
        const event = await effect()
        this.#enter(step(this.#state, event))
      } catch (error) {
        const defect = eventOfDefect(this.#state, toHoldfastError(error, this.#homePlace()))
        this.#enter(step(this.#state, defect))
      }
    })
  }

  async #runHomeBatch(): Promise<CommitEvent> {
    const { home } = this.#plan
    try {
      const outcomes = await home.flight(home.batch.map(({ statement }) => statement))
      const failed = outcomes.find((outcome) => !outcome.ok)
      const failure =
        failed === undefined
          ? unexpectedRows(home.batch, outcomes, home.shard.name)
          : toHoldfastError(failed.error, this.#homePlace())
      return failure === undefined ? { kind: 'home ready' } : { kind: 'given up', failure }
    } catch (error) {
      return { kind: 'given up', failure: this.#toFailure(error) }
    }
  }

  async #prepare(participant: ShardTransaction): Promise<CommitEvent> {
    const { transactionId, business, home } = this.#plan
    const { event, position } = await prepareParticipant(this.#environment, participant, {
      transactionId,
      business,
      home: home.shard,
      participants: this.#names,
      homeClock: present(home.opened?.clock, 'home is opened before a participant is prepared'),
    })
    if (position !== undefined) this.#prepared.set(participant.shard.name, position)
    return event
  }

  async #confirm(reader: ShardTransaction): Promise<CommitEvent> {
    const { transactionId, business } = this.#plan
    const { event, position } = await confirmReader(this.#environment, reader, {
      transactionId,
      tenant: business.tenant,
    })
    if (position !== undefined) this.#prepared.set(reader.shard.name, position)
    return event
  }

  /**
   * On a connection of its own: the clock is never moved inside a transaction. Nothing is to be done where it was just heard to be
   * past, as it is wherever home's clock is kept: the votes were drawn half a round trip ago, or more.
   */
  async #observe(after: Hlc): Promise<CommitEvent> {
    const { pools, limits, clock, clocks, metrics } = this.#environment
    const { home } = this.#plan
    if (clocks.isPast(home.shard, after, clock.wallMs())) return { kind: 'observed' }
    try {
      const target = primaryTarget(this.#environment, home.shard.name)
      const wall = hlcFromWallMs(clock.wallMs())
      const [observed] = await pools.flight(target, [store.observe(after, wall)], limits.serviceWithinMs)
      noteAdoption(metrics, home.shard.name, observed)
      if (observed?.ok) return { kind: 'observed' }
      return { kind: 'observe refused', failure: this.#toFailure(observed?.error) }
    } catch (error) {
      return { kind: 'observe refused', failure: this.#toFailure(error) }
    }
  }

  async #decide(after: Hlc): Promise<CommitEvent> {
    const { home, participants } = this.#plan
    await this.#step(participants.length === 0 ? 'local stamp' : 'global record inserted')
    const failure = this.#plan.lastRefusal()
    if (failure !== undefined) {
      this.#environment.background.run(() => home.rollBack())
      return { kind: 'refused', failure }
    }
    const body = this.#homeBatchTravelsLast ? home.batch.map(({ statement }) => statement) : []
    const tail = [...body, ...this.#decisionStatements(after)]
    let flight: Awaited<ReturnType<ShardTransaction['last']>>
    try {
      flight = await home.last(tail, this.#environment.limits.commitWithinMs, () => this.#commitSent())
    } catch (error) {
      this.#environment.background.run(() => home.rollBack())
      if (error instanceof ConnectionLost && error.sent) return { kind: 'unanswered' }
      // Nothing was sent: a value without a form, a connection that was gone before, an opening that failed earlier.
      return { kind: 'refused', failure: this.#toFailure(error) }
    }
    home.release()
    if (participants.length === 0) await this.#step('local commit in WAL')
    const event = this.#toDecisionEvent(flight.outcomes, flight.openingFailure)
    if (event.kind === 'acknowledged' && participants.length === 0) await this.#step('local acknowledged')
    return event
  }

  #decisionStatements(after: Hlc): Statement[] {
    const { transactionId, business, home, value, events } = this.#plan
    return [
      ...store.concludeCaller,
      store.stamp({
        transactionId,
        epoch: home.shard.epoch,
        key: home.key,
        business,
        placements: home.placements,
        participants: this.#names,
        after,
        value,
        events,
      }),
      store.commit,
      store.flushedPosition,
    ]
  }

  #toDecisionEvent(outcomes: readonly StatementOutcome[], openingFailure: HoldfastError | undefined): CommitEvent {
    const answer = judgeCommit(outcomes)
    switch (answer.kind) {
      case 'acknowledged':
        this.#position = answer.position
        return answer
      case 'unanswered':
        return answer
      case 'refused': {
        // What was heard of the clock may be what is wrong.
        this.#environment.clocks.forget(this.#plan.home.shard)
        const failed = outcomes.find((outcome) => !outcome.ok)
        const failure = openingFailure ?? this.#toFailure(failed?.error ?? new Error('COMMIT answered ROLLBACK'))
        return { kind: 'refused', failure }
      }
      default:
        return unreachable(answer)
    }
  }

  async #ask(): Promise<CommitEvent> {
    const { home, transactionId } = this.#plan
    const told = await askOutcome(this.#environment, {
      transactionId,
      home: home.shard.name,
      node: home.shard.primary.id,
      epoch: home.shard.epoch,
      participants: this.#names,
      serverProcessId: home.serverProcessId,
    })
    if (told.kind === 'committed') this.#position = told.position
    return eventOfAnswer(told, this.#homePlace())
  }

  #settle(shard: ShardName, decision: decisions.Decision): void {
    const { transactionId, home } = this.#plan
    const branch = { home: home.shard.name, transactionId, participant: shard }
    this.#environment.background.runNext(async () => {
      await settleBranch(this.#environment, { branch, homeEpoch: home.shard.epoch, decision })
    })
  }

  async #commitSent(): Promise<void> {
    const isLocal = this.#plan.participants.length === 0
    await this.#step(isLocal ? 'local commit sent' : 'global home commit sent')
    if (!isLocal) await this.#step('global home waiting for follower')
  }

  #step(name: StepName): Promise<void> {
    return this.#environment.onStep(name, this.#homePlace())
  }

  #toFailure(error: unknown): HoldfastError {
    return error instanceof TypeError ? unsendable(error) : toHoldfastError(error, this.#homePlace())
  }

  #homePlace() {
    return { shard: this.#plan.home.shard.name, transactionId: this.#plan.transactionId }
  }
}
