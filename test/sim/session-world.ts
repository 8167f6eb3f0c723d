import { assert, present } from '../../src/base/assert.ts'
import type { Epoch, ShardName, TransactionId } from '../../src/directory/topology.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import { hlcZero, maxHlc } from '../../src/hlc/hlc.ts'
import type { HistoryRow } from '../../src/session/fork-point.ts'
import { hlc, historyNumber, lsn } from '../support/session-values.ts'

/**
 * A world of shards whose servers do what PostgreSQL's do, as far as a reader can tell: a log, followers that receive
 * and replay prefixes of it, a primary that hides a commit until its followers have it, branches that settle late,
 * promotions that lose the end of a log, and cutovers that leave transactions out. A position is a count of records.
 */
export type LogRecord =
  | { readonly kind: 'commit'; readonly id: TransactionId; readonly timestamp: Hlc }
  | { readonly kind: 'prepare'; readonly id: TransactionId; readonly timestamp: Hlc; readonly preparedAt: Hlc }
  | { readonly kind: 'closed'; readonly timestamp: Hlc }
  | { readonly kind: 'history'; readonly row: HistoryRow }

export interface Server {
  isPrimary: boolean
  log: LogRecord[]
  received: number
  replayed: number
  /** Of a primary: committed in the log and not shown yet, because the wait for a follower goes on (HZ-S4). */
  readonly hidden: Set<TransactionId>
}

export interface Shown {
  readonly visible: ReadonlySet<TransactionId>
  readonly histories: readonly HistoryRow[]
  readonly closedTimestamp: Hlc
  readonly greatestTimestamp: Hlc
}

/** What a snapshot of the server, taken now, shows. */
export function shownBy(server: Server): Shown {
  const records = server.isPrimary ? server.log : server.log.slice(0, server.replayed)
  const visible = new Set<TransactionId>()
  const histories: HistoryRow[] = []
  let closedTimestamp = hlcZero
  let greatestTimestamp = hlcZero
  for (const record of records) {
    if (record.kind === 'closed') closedTimestamp = maxHlc(closedTimestamp, record.timestamp)
    if (record.kind === 'history') histories.push(record.row)
    if (record.kind === 'commit' && !server.hidden.has(record.id)) {
      visible.add(record.id)
      greatestTimestamp = maxHlc(greatestTimestamp, record.timestamp)
    }
  }
  return { visible, histories, closedTimestamp, greatestTimestamp }
}

export class ShardWorld {
  readonly name: ShardName
  readonly servers: Server[]
  clock: Hlc = hlc(1)
  #epoch = 1

  constructor(name: ShardName, followers: number) {
    this.name = name
    const founding: LogRecord = {
      kind: 'history',
      row: { historyId: historyNumber(1), epoch: 1 as Epoch, fork: undefined },
    }
    const log: LogRecord[] = [founding]
    const server = (isPrimary: boolean): Server => ({ isPrimary, log, received: 1, replayed: 1, hidden: new Set() })
    this.servers = [server(true), ...Array.from({ length: followers }, () => server(false))]
  }

  get primary(): Server {
    return present(
      this.servers.find((server) => server.isPrimary && server.log === this.log),
      'one server writes',
    )
  }

  /** The log that counts; a server may still have another one. */
  get log(): LogRecord[] {
    const newest = (server: Server) => server.log.findLast((record) => record.kind === 'history')?.row.epoch ?? 0
    return this.servers.reduce((best, server) => (newest(server) > newest(best) ? server : best)).log
  }

  get history(): HistoryRow {
    const record = this.log.findLast((entry) => entry.kind === 'history')
    return present(record?.row, 'a log begins with a history')
  }

  tick(observed: Hlc = hlcZero): Hlc {
    this.clock = hlc((this.clock > observed ? this.clock : observed) + 1n)
    return this.clock
  }

  commit(id: TransactionId, timestamp: Hlc, hidden: boolean): void {
    this.clock = maxHlc(this.clock, timestamp)
    this.log.push({ kind: 'commit', id, timestamp })
    if (hidden) this.primary.hidden.add(id)
  }

  prepared(): Extract<LogRecord, { kind: 'prepare' }>[] {
    const settled = new Set(this.log.map((record) => (record.kind === 'commit' ? record.id : undefined)))
    return this.log.filter((record) => record.kind === 'prepare').filter((record) => !settled.has(record.id))
  }

  /** Settles a branch that was decided, and waits until the primary shows it. */
  settle(id: TransactionId): void {
    const record = this.prepared().find((branch) => branch.id === id)
    if (record !== undefined) this.commit(record.id, record.timestamp, false)
    this.primary.hidden.delete(id)
  }

  settleAll(): void {
    for (const { id } of this.log.filter((record) => record.kind === 'prepare')) this.settle(id)
  }

  /** Publishes what has ended: below everything hidden and everything prepared. `early` is the planted fault. */
  close(early = false): void {
    const { hidden } = this.primary
    const running = this.log.flatMap((record) => {
      if (record.kind === 'commit' && hidden.has(record.id)) return [record.timestamp]
      return []
    })
    running.push(...this.prepared().map((record) => record.preparedAt))
    const least = running.reduce<Hlc | undefined>((a, b) => (a === undefined || b < a ? b : a), undefined)
    const timestamp = least === undefined || early ? this.clock : hlc(least - 1n)
    this.log.push({ kind: 'closed', timestamp })
  }

  receive(server: Server, records: number): void {
    if (!server.isPrimary) server.received = Math.min(server.log.length, server.received + records)
  }

  replay(server: Server, records: number): void {
    if (!server.isPrimary) server.replayed = Math.min(server.received, server.replayed + records)
  }

  /** Promotes a follower with what it has received. The old primary stays behind, for readers who have not heard. */
  promote(follower: Server): void {
    assert(!follower.isPrimary && follower.log === this.log, 'a follower of this history is promoted')
    const at = follower.received
    const log = this.log.slice(0, at)
    log.push(this.#nextHistory(at, [], log))
    for (const other of this.servers) if (!other.isPrimary) rebase(other, log, at)
    follower.isPrimary = true
    follower.hidden.clear()
  }

  /**
   * Restores to `at` and redoes what came after but for `leftOut`; followers are rebuilt from the backup.
   * `rowLast` is the planted fault.
   */
  cutOver(at: number, leftOut: readonly TransactionId[], rowLast = false): void {
    const without = new Set(leftOut)
    const rolledBack: LogRecord = { kind: 'closed', timestamp: hlcZero }
    const isLeftOut = (record: LogRecord) =>
      (record.kind === 'commit' || record.kind === 'prepare') && without.has(record.id)
    const log = this.log.slice(0, at).map((record) => (isLeftOut(record) ? rolledBack : record))
    const redone = this.log
      .slice(at)
      .filter((record) => (record.kind === 'commit' || record.kind === 'prepare') && !isLeftOut(record))
    // What earlier cutovers left out is missing here too, if this one goes back behind them.
    const before = this.log.slice(at).flatMap((record) => (record.kind === 'history' ? leftOutOf(record.row) : []))
    const row = this.#nextHistory(at, [...new Set([...before, ...leftOut])], log)
    log.push(...(rowLast ? [...redone, row] : [row, ...redone]))
    for (const server of this.servers) {
      server.log = log
      server.received = at
      server.replayed = at
      server.isPrimary = server === this.servers[0]
      server.hidden.clear()
    }
  }

  /** Everything ends: hidden commits show, branches settle, followers catch up, closed time passes `timestamp`. */
  quiesce(timestamp: Hlc): void {
    this.primary.hidden.clear()
    for (const record of this.prepared()) this.commit(record.id, record.timestamp, false)
    this.tick(timestamp)
    this.close()
    for (const server of this.servers.filter((each) => !each.isPrimary)) {
      rebase(server, this.log, server.received)
      this.receive(server, this.log.length)
      this.replay(server, this.log.length)
    }
  }

  #nextHistory(at: number, leftOut: readonly TransactionId[], log: readonly LogRecord[]): LogRecord {
    this.#epoch += 1
    const parent = log.findLast((record) => record.kind === 'history')
    const fork = { parent: present(parent, 'a log begins with a history').row.historyId, lsn: lsn(at), leftOut }
    return { kind: 'history', row: { historyId: historyNumber(this.#epoch), epoch: this.#epoch as Epoch, fork } }
  }
}

function leftOutOf(row: HistoryRow): readonly TransactionId[] {
  return row.fork?.leftOut ?? []
}

/** A follower goes on with another log; what it has beyond the shared part is rewound. */
function rebase(server: Server, log: LogRecord[], shared: number): void {
  if (server.log === log) return
  server.log = log
  server.received = Math.min(server.received, shared)
  server.replayed = Math.min(server.replayed, server.received)
}
