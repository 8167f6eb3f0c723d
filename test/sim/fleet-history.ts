import type { RedoTransaction, RowChange, RowImage } from '../../src/archive/redo-transaction.ts'
import { present } from '../../src/base/assert.ts'
import type { ShardName, TenantName, TransactionId } from '../../src/directory/topology.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import type { Lsn } from '../../src/postgres/lsn.ts'
import type { WrittenHistory } from '../support/redo-values.ts'
import { historyOf } from '../support/redo-values.ts'
import { applyChange, chooseChange, lockKeys } from './fleet-rows.ts'

/**
 * A fleet of shards in memory that keeps the rules of the real one as far as recovery depends on them: row locks until
 * the commit, stamps drawn while they are held, prepared branches, decisions, a closed timestamp. What it
 * writes is a log per shard, from which a physical restore and a redo stream follow.
 */
export interface LogRecord {
  readonly lsn: Lsn
  readonly kind: 'prepare' | 'commit' | 'rollback prepared'
  readonly transactionId: TransactionId | null
  readonly changes: readonly RowChange[]
  /** What the redo stream has of a commit. */
  readonly redo: RedoTransaction | null
}

/** One choice of the generator; numbers are taken modulo what there is to choose from. */
export interface Move {
  readonly do: 'local' | 'global' | 'unattributed' | 'advance' | 'gossip'
  readonly shard: number
  readonly other: number
  readonly rows: readonly number[]
  readonly abort: boolean
}

interface Active {
  readonly id: TransactionId
  readonly home: Shard
  readonly participants: readonly Shard[]
  readonly changes: ReadonlyMap<Shard, readonly RowChange[]>
  readonly abort: boolean
  readonly prepared: Map<Shard, bigint>
  readonly unsettled: Set<Shard>
  stamp: bigint | null
  committed: boolean
}

interface Shard {
  readonly name: ShardName
  readonly rows: Map<string, RowImage>
  readonly log: LogRecord[]
  /** Row keys; exclusive ones by their holder, shared ones by how many hold them. */
  readonly exclusive: Set<string>
  readonly shared: Map<string, number>
  readonly archived: { lsn: Lsn; closed: Hlc; commits: number }[]
  clock: bigint
  highest: bigint
  nextLsn: bigint
}

export class FleetHistory {
  readonly shards: readonly Shard[]
  #active: Active[] = []
  #born = 0

  constructor(count: number) {
    this.shards = Array.from({ length: count }, (_, index) => ({
      name: `region/${String.fromCharCode(97 + index)}` as ShardName,
      rows: new Map(),
      log: [],
      exclusive: new Set(),
      shared: new Map(),
      archived: [{ lsn: 0n as Lsn, closed: 0n as Hlc, commits: 0 }],
      clock: BigInt(index * 3),
      highest: 0n,
      nextLsn: 100n,
    }))
  }

  play(moves: readonly Move[]): void {
    for (const move of moves) {
      const shard = this.#pick(move.shard)
      if (move.do === 'gossip') shard.clock = max(shard.clock, this.#pick(move.other).clock)
      else if (move.do === 'unattributed') this.#breakGlass(shard, move)
      else if (move.do === 'advance') this.#advance(move)
      else this.#begin(shard, move)
      for (const one of this.shards) one.archived.push(this.#archiveOf(one))
    }
  }

  /** Lets every open transaction end. */
  drain(): void {
    while (this.#active.length > 0) this.#advance({ do: 'advance', shard: 0, other: 0, rows: [], abort: false })
    for (const one of this.shards) one.archived.push(this.#archiveOf(one))
  }

  /** The histories as archives that stopped at some moments have them. */
  histories(moments: readonly number[]): WrittenHistory[] {
    return this.shards.map((shard, index) => {
      const { lsn, closed, commits } = this.archivedAt(index, moments[index] ?? -1)
      return historyOf(shard.log.flatMap(({ redo }) => redo ?? []).slice(0, commits), {
        shard: shard.name,
        redo: { lsn, closedTimestamp: closed, from: 0n as Lsn, clockAtFrom: null },
      })
    })
  }

  archivedAt(index: number, moment: number): { lsn: Lsn; closed: Hlc; commits: number } {
    const { archived } = present(this.shards[index], 'a shard of that number')
    return present(archived.at(moment < 0 ? -1 : moment % archived.length), 'an archive has a beginning')
  }

  #archiveOf(shard: Shard): Shard['archived'][number] {
    const open = this.#active.flatMap((one) => {
      const stamp = one.home === shard && !one.committed ? one.stamp : null
      return [stamp, one.unsettled.has(shard) ? one.prepared.get(shard) : null].flatMap((at) => at ?? [])
    })
    const closed = open.reduce((least, at) => (at - 1n < least ? at - 1n : least), shard.clock)
    const commits = shard.log.filter(({ redo }) => redo !== null).length
    return { lsn: shard.nextLsn as Lsn, closed: closed as Hlc, commits }
  }

  #begin(home: Shard, move: Move): void {
    const others = move.do === 'global' ? this.shards.filter((shard) => shard !== home) : []
    const participants = others.filter((_, index) => index === move.other % others.length || (move.other & 1) === 1)
    const changes = new Map<Shard, RowChange[]>()
    for (const [index, shard] of [home, ...participants].entries()) {
      const made = this.#change(shard, move.rows.slice(index))
      if (made === null) {
        for (const [locked, held] of changes) unlock(locked, held)
        return
      }
      changes.set(shard, made)
    }
    const id = `00000000-0000-7000-8000-${String(++this.#born).padStart(12, '0')}` as TransactionId
    const active = { id, home, participants, changes, abort: move.abort && participants.length > 0 }
    this.#active.push({ ...active, prepared: new Map(), unsettled: new Set(), stamp: null, committed: false })
  }

  /** The next step of one open transaction. */
  #advance(move: Move): void {
    const active = this.#active[move.other % this.#active.length]
    if (active === undefined) return
    const unprepared = active.participants.find((shard) => !active.prepared.has(shard))
    const [unsettled] = active.unsettled
    if (!active.committed && unprepared !== undefined) this.#prepare(active, unprepared)
    else if (active.abort && unsettled !== undefined) this.#settle(active, unsettled, move.abort)
    else if (!active.committed && !active.abort) {
      if (active.stamp === null) this.#stamp(active)
      else this.#commitAtHome(active)
    } else if (unsettled !== undefined) this.#settle(active, unsettled, move.abort)
    const ended = active.unsettled.size === 0 && (active.committed || (active.abort && unprepared === undefined))
    if (!ended) return
    if (active.abort) unlock(active.home, changesOf(active, active.home))
    this.#active = this.#active.filter((one) => one !== active)
  }

  #prepare(active: Active, shard: Shard): void {
    active.prepared.set(shard, ++shard.clock)
    active.unsettled.add(shard)
    const changes = changesOf(active, shard)
    append(shard, { kind: 'prepare', transactionId: active.id, changes, redo: null })
  }

  #stamp(active: Active): void {
    const { home } = active
    for (const at of active.prepared.values()) home.clock = max(home.clock, at)
    active.stamp = ++home.clock
  }

  #commitAtHome(active: Active): void {
    const { home } = active
    const identity = { kind: 'home', ...this.#attribution(active) } as const
    commit(home, active.id, changesOf(active, home), identity)
    active.committed = true
  }

  /** The decision row and the settlement are commits of their own; others may come between. */
  #settle(active: Active, shard: Shard, split: boolean): void {
    const row = { transaction_id: active.id, outcome: active.abort ? 'ABORTED' : 'COMMITTED', home: active.home.name }
    const known = shard.rows.has(`holdfast.decision ${active.id}`)
    if (!known) {
      const timestamp = active.abort || active.stamp === null ? null : active.stamp.toString()
      const after = { ...row, commit_timestamp: timestamp }
      if (active.stamp !== null) shard.clock = max(shard.clock, active.stamp)
      const changes: RowChange[] = [{ op: 'insert', relation: 'holdfast.decision', after }]
      commit(shard, null, changes, { kind: 'platform', after: shard.highest as Hlc })
      if (split) return
    }
    active.unsettled.delete(shard)
    const changes = changesOf(active, shard)
    if (active.abort) {
      append(shard, { kind: 'rollback prepared', transactionId: active.id, changes: [], redo: null })
      unlock(shard, changes)
    } else {
      const identity = { kind: 'branch', home: active.home.name, ...this.#attribution(active) } as const
      commit(shard, active.id, changes, identity)
    }
  }

  #attribution(active: Active) {
    return {
      transactionId: active.id,
      commitTimestamp: present(active.stamp, 'a committed transaction is stamped') as Hlc,
      participants: active.participants.map(({ name }) => name),
      tenant: 'globex-eu' as TenantName,
      action: 'test',
      subject: '',
      actor: '',
    }
  }

  #breakGlass(shard: Shard, move: Move): void {
    const changes = this.#change(shard, move.rows)
    if (changes !== null) commit(shard, null, changes, { kind: 'unattributed', after: shard.highest as Hlc })
  }

  /** Makes changes that are valid now and locks their rows; null when one of them would have to wait. */
  #change(shard: Shard, choices: readonly number[]): RowChange[] | null {
    const own = new Map(shard.rows)
    const changes: RowChange[] = []
    for (const choice of choices.slice(0, 3)) {
      const change = chooseChange(own, choice)
      if (change === null) continue
      if (changes.some((one) => lockKeys(one).row === lockKeys(change).row)) continue
      changes.push(change)
      applyChange(own, change)
    }
    const blocked = changes.some((change) => {
      const { row, parents } = lockKeys(change)
      return shard.exclusive.has(row) || shard.shared.has(row) || parents.some((parent) => shard.exclusive.has(parent))
    })
    if (blocked || changes.length === 0) return null
    lock(shard, changes)
    return changes
  }

  #pick(index: number): Shard {
    return present(this.shards[index % this.shards.length], 'a fleet has shards')
  }
}

function lock(shard: Shard, changes: readonly RowChange[]): void {
  for (const { row, parents } of changes.map(lockKeys)) {
    shard.exclusive.add(row)
    for (const parent of parents) shard.shared.set(parent, (shard.shared.get(parent) ?? 0) + 1)
  }
}

function unlock(shard: Shard, changes: readonly RowChange[]): void {
  for (const { row, parents } of changes.map(lockKeys)) {
    shard.exclusive.delete(row)
    for (const parent of parents) {
      const left = (shard.shared.get(parent) ?? 0) - 1
      if (left > 0) shard.shared.set(parent, left)
      else shard.shared.delete(parent)
    }
  }
}

function commit(
  shard: Shard,
  transactionId: TransactionId | null,
  changes: readonly RowChange[],
  identity: RedoTransaction['identity'],
): void {
  const commitLsn = shard.nextLsn as Lsn
  const endLsn = (commitLsn + 10n) as Lsn
  const redo = { shard: shard.name, commitLsn, endLsn, xid: Number(commitLsn), committedAtMs: 0, identity, changes }
  append(shard, { kind: 'commit', transactionId, changes, redo })
  for (const change of changes) applyChange(shard.rows, change)
  if (identity.kind === 'home' || identity.kind === 'branch') {
    shard.highest = max(shard.highest, identity.commitTimestamp)
  }
  unlock(shard, changes)
}

function append(shard: Shard, record: Omit<LogRecord, 'lsn'>): void {
  shard.log.push({ lsn: shard.nextLsn as Lsn, ...record })
  shard.nextLsn += 10n
}

function changesOf(active: Active, shard: Shard): readonly RowChange[] {
  return present(active.changes.get(shard), 'a shard of the transaction')
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b
}
