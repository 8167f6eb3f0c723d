import { present } from '../base/assert.ts'
import type { TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Row, Statement, StatementOutcome } from '../postgres/statement.ts'
import { accepted } from '../postgres/statement.ts'
import type { AcceptanceFacts, BranchFacts, RecordFacts, ShardFacts } from './proof-facts.ts'

/** Everything that the primary of one shard has on one transaction. */
export interface ShardTrace {
  readonly state: ShardFacts
  readonly commit: CommitTrace | null
  readonly record: RecordFacts | null
  readonly branch: BranchTrace | null
  /** Its branch here is prepared: nothing of it is visible yet. */
  readonly prepared: boolean
  readonly events: readonly { readonly eventId: string; readonly name: string }[]
  /** The last time that it was refused. */
  readonly attempt: (ActionTrace & { readonly code: string; readonly reason: string }) | null
}

export interface ActionTrace {
  readonly tenant: string
  readonly action: string
  readonly subject: string
  readonly actor: string
}

export interface CommitTrace extends ActionTrace {
  readonly commitTimestamp: Hlc
  readonly epoch: number
  readonly participants: readonly string[]
  readonly placements: Placements
}

export interface BranchTrace extends ActionTrace {
  readonly home: string
  readonly participants: readonly string[]
  readonly placements: Placements
  readonly facts: BranchFacts & { readonly state: 'committed' }
}

export type Placements = readonly { readonly domain: string; readonly version: number }[]

/**
 * The statements of one flight, in autocommit. Prepared branches are listed before the rows of committed ones: a branch
 * that is settled in between is then seen committed, never as absent.
 */
export function traceStatements(transactionId: TransactionId): Statement[] {
  const values = [transactionId]
  return [
    {
      text: `select s.epoch, s.history_id, s.collected_through_ms, c.closed_timestamp from holdfast.shard s, holdfast.closed c`,
    },
    {
      text: `select h.history_id, h.epoch, $1::uuid = any(h.left_out) as left_out from holdfast.history h order by h.epoch`,
      values,
    },
    {
      text: `select commit_timestamp, epoch, participants, placements, tenant, action, subject, actor
             from holdfast.commit_log where transaction_id = $1`,
      values,
    },
    {
      text: `select outcome, commit_timestamp, home_epoch, reason from holdfast.transaction_record where transaction_id = $1`,
      values,
    },
    {
      text: `select count(*)::integer as prepared from pg_prepared_xacts
             where database = current_database() and position($1::text in gid) > 0`,
      values,
    },
    {
      text: `select b.home, b.participants, b.placements, b.prepare_timestamp, b.epoch, d.commit_timestamp,
               b.tenant, b.action, b.subject, b.actor,
               a.actor as accepted_by, a.reason as accepted_for, a.clock_before as accepted_from
             from holdfast.branch b join holdfast.decision d using (transaction_id)
             left join holdfast.clock_acceptance a using (transaction_id)
             where b.transaction_id = $1`,
      values,
    },
    {
      text: `select event_id, name from holdfast.outbox where transaction_id = $1 order by ordinal`,
      values,
    },
    {
      text: `select tenant, action, subject, actor, code, reason from holdfast.attempt
             where transaction_id = $1 order by attempted_at desc limit 1`,
      values,
    },
  ]
}

export function readTrace(outcomes: readonly StatementOutcome[]): ShardTrace {
  const rows = outcomes.map((outcome) => accepted(outcome).rows)
  const [shard, histories, commit, record, prepared, branch, events, attempt] = rows
  return {
    state: stateOf(present(shard?.[0], 'a founded shard has its rows'), histories ?? []),
    commit: commit?.[0] === undefined ? null : commitOf(commit[0]),
    record: record?.[0] === undefined ? null : recordOf(record[0]),
    branch: branch?.[0] === undefined ? null : branchOf(branch[0]),
    prepared: Number(prepared?.[0]?.['prepared']) > 0,
    events: (events ?? []).map((row) => ({ eventId: String(row['event_id']), name: String(row['name']) })),
    attempt: attempt?.[0] === undefined ? null : attemptOf(attempt[0]),
  }
}

function stateOf(row: Row, histories: readonly Row[]): ShardFacts {
  return {
    epoch: Number(row['epoch']),
    historyId: String(row['history_id']),
    closedTimestamp: hlcOf(row['closed_timestamp']),
    collectedThroughMs: Number(row['collected_through_ms']),
    histories: histories.map((history) => ({
      historyId: String(history['history_id']),
      epoch: Number(history['epoch']),
      leftOut: history['left_out'] === true,
    })),
  }
}

function commitOf(row: Row): CommitTrace {
  return {
    ...actionOf(row),
    commitTimestamp: hlcOf(row['commit_timestamp']),
    epoch: Number(row['epoch']),
    participants: row['participants'] as string[],
    placements: placementsOf(row['placements']),
  }
}

function branchOf(row: Row): BranchTrace {
  return {
    ...actionOf(row),
    home: String(row['home']),
    participants: row['participants'] as string[],
    placements: placementsOf(row['placements']),
    facts: {
      state: 'committed',
      prepareTimestamp: hlcOf(row['prepare_timestamp']),
      commitTimestamp: hlcOf(row['commit_timestamp']),
      epoch: Number(row['epoch']),
      accepted: acceptanceOf(row),
    },
  }
}

function acceptanceOf(row: Row): AcceptanceFacts | null {
  const actor = row['accepted_by']
  if (typeof actor !== 'string') return null
  return { actor, reason: String(row['accepted_for']), clockBefore: hlcOf(row['accepted_from']) }
}

function recordOf(row: Row): RecordFacts {
  const timestamp = row['commit_timestamp']
  return {
    outcome: row['outcome'] === 'COMMITTED' ? 'COMMITTED' : 'ABORTED',
    commitTimestamp: timestamp === null ? null : hlcOf(timestamp),
    homeEpoch: Number(row['home_epoch']),
    reason: String(row['reason']),
  }
}

function attemptOf(row: Row) {
  return { ...actionOf(row), code: String(row['code']), reason: String(row['reason']) }
}

function actionOf(row: Row): ActionTrace {
  const { tenant, action, subject, actor } = row
  return { tenant: String(tenant), action: String(action), subject: String(subject), actor: String(actor) }
}

/** `{"payroll": 1}`. */
function placementsOf(value: unknown): Placements {
  return Object.entries(value as Record<string, unknown>).map(([domain, version]) => ({
    domain,
    version: Number(version),
  }))
}

function hlcOf(value: unknown): Hlc {
  return toHlc(BigInt(String(value)))
}
