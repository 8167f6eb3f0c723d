import { present } from '../../src/base/assert.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import { toHlc } from '../../src/hlc/hlc.ts'
import type { CommitEffect, CommitEvent, CommitState } from '../../src/transaction/commit-protocol.ts'
import { beginCommit } from '../../src/transaction/commit-protocol.ts'
import type { Decision } from '../../src/transaction/decision-store.ts'
import { nameOf, scheduledFailure as failure, shardOf } from './commit-names.ts'
import { claimKey } from './commit-keys.ts'
import type { Reader } from './commit-reader.ts'
import type { Answer, Client, Opened, World } from './commit-world.ts'
import { home } from './commit-world.ts'

/** The shell around `commit-protocol.ts`, as far as messages go. */
export class Coordinator {
  readonly #world: World
  readonly #gateway: number
  readonly #client: Client
  readonly #readers: readonly Reader[]
  readonly #opened: Opened
  #state: CommitState
  #asked = 0

  constructor(world: World, gateway: number, client: Client, readers: readonly Reader[]) {
    this.#world = world
    this.#gateway = gateway
    this.#client = client
    const server = present(world.known[gateway]?.[home], 'a known home')
    this.#opened = { server, life: server.life }
    server.open.add(client.id)
    this.#readers = readers
    this.#state = beginCommit([...client.participants, ...readers.map(({ shard }) => shard)].map(nameOf), false).state
  }

  /** Its process is gone, and its connections with it. */
  die(): void {
    this.#world.endHome(this.#opened, this.#client.id)
  }

  /** What is read is awaited by the caller's function; the commit begins when that has returned. */
  begin(): void {
    if (this.#client.key === undefined) return this.#read()
    claimKey(this.#world, this.#gateway, this.#opened, this.#client, (isClaimed) => {
      if (isClaimed) return this.#read()
      this.#world.endHome(this.#opened, this.#client.id)
    })
  }

  #read(): void {
    let unread = this.#readers.length
    if (unread === 0) return this.#commit()
    for (const reader of this.#readers) {
      reader.read((answered) => {
        if (!answered) return this.#hear({ kind: 'given up', failure })
        unread -= 1
        if (unread === 0 && this.#state.kind === 'preparing') this.#commit()
      })
    }
  }

  #commit(): void {
    for (const reader of this.#readers) reader.vote((event) => this.#hear(event))
    for (const participant of this.#client.participants) {
      this.#world.prepare(this.#gateway, participant, this.#client.id, (answer) => this.#vote(participant, answer))
    }
  }

  #vote(participant: number, answer: Answer): void {
    const shard = nameOf(participant)
    if (answer.kind === 'ok') {
      return this.#hear({ kind: 'vote yes', shard, timestamp: toHlc(BigInt(answer.value)) })
    }
    if (answer.kind === 'warned' && this.#world.parts.warned === 'acknowledged') {
      return this.#hear({ kind: 'vote yes', shard, timestamp: toHlc(BigInt(answer.value)) })
    }
    this.#hear({ kind: answer.kind === 'refused' ? 'vote no' : 'vote lost', shard, failure })
  }

  #hear(event: CommitEvent): void {
    const next = this.#world.parts.step(this.#state, event)
    this.#state = next.state
    for (const effect of next.effects) this.#carryOut(effect)
    const { told } = this.#client
    if (told !== 'nothing') return
    if (this.#state.kind === 'committed') this.#client.told = 'committed'
    if (this.#state.kind === 'aborted') this.#client.told = 'aborted'
    if (this.#state.kind === 'ambiguous') this.#client.told = 'ambiguous'
  }

  #carryOut(effect: CommitEffect): void {
    const world = this.#world
    const { id } = this.#client
    switch (effect.kind) {
      case 'observe':
        return world.observe(this.#gateway, Number(effect.after), (answer) => {
          this.#hear(answer.kind === 'ok' ? { kind: 'observed' } : { kind: 'observe refused', failure })
        })
      case 'decide':
        return world.decide(this.#gateway, this.#opened, id, Number(effect.after), (answer) => this.#decided(answer))
      case 'ask':
        return this.#ask()
      case 'roll back home':
        return this.#world.endHome(this.#opened, id)
      case 'commit branch':
        return this.#settle(effect.shard, { outcome: 'COMMITTED', commitTimestamp: effect.timestamp })
      case 'roll back branch':
        return this.#settle(effect.shard, { outcome: 'ABORTED' })
    }
  }

  #decided(answer: Answer): void {
    if (answer.kind === 'ok') return this.#hear({ kind: 'acknowledged', timestamp: toHlc(BigInt(answer.value)) })
    if (answer.kind === 'refused') return this.#hear({ kind: 'refused', failure })
    if (answer.kind === 'warned' && this.#world.parts.warned === 'acknowledged') {
      return this.#hear({ kind: 'acknowledged', timestamp: toHlc(BigInt(answer.value)) })
    }
    if (answer.kind === 'lost') this.#world.endHome(this.#opened, this.#client.id)
    this.#hear({ kind: 'unanswered' })
  }

  #ask(): void {
    this.#asked += 1
    this.#world.ask(this.#gateway, this.#client.id, (answer) => {
      if (answer.kind !== 'record') {
        if (this.#asked < 3) return this.#ask()
        return this.#hear({ kind: 'told nothing', failure })
      }
      const { decision } = answer
      this.#hear(
        decision.outcome === 'COMMITTED'
          ? { kind: 'told committed', timestamp: decision.commitTimestamp }
          : { kind: 'told aborted', failure },
      )
    })
  }

  #settle(shard: ShardName, decision: Decision): void {
    const { server } = this.#opened
    this.#world.settle(this.#gateway, shardOf(shard), this.#client.id, decision, server.epoch, () => {})
  }
}
