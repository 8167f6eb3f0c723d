import type { RedoTransaction, RowImage } from '../../src/archive/redo-transaction.ts'
import { nameOf } from '../../src/archive/redo-transaction.ts'
import { isHoldfastError } from '../../src/base/errors.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import { archiveOf } from '../../src/fleet/archives.ts'
import type { Lsn } from '../../src/postgres/lsn.ts'
import { maxLsn, parseLsn } from '../../src/postgres/lsn.ts'
import type { Redone, ReplayHistory, RowChanged } from '../sim/replay-order.ts'
import { eventually } from '../support/eventually.ts'
import type { TestFleet } from '../support/fleet.ts'

/** Rows of one table as a replay is asked about them: by which columns, and what of each. */
export interface Replayed {
  /** Without its schema, as both the server and the stream know it. */
  readonly table: string
  readonly key: string
  readonly value: string
}

/** Where the log of a shard is. */
export async function positionOf(fleet: TestFleet, shard: string): Promise<Lsn> {
  const [row] = await fleet.ask<{ position: string }>(shard, 'select pg_current_wal_insert_lsn()::text as position')
  return parseLsn(row?.position ?? '')
}

/** What the redo stream has of them since a position, and what is there. Nobody may write them any more. */
export async function replayOf(
  fleet: TestFleet,
  shard: string,
  { table, key, value }: Replayed,
  since: Lsn,
): Promise<ReplayHistory> {
  const rows = await fleet.ask<{ row: RowImage }>(shard, `select to_jsonb(r) as row from ${table} r`)
  const to = await positionOf(fleet, shard)
  const archive = await archiveOf(fleet.config, shard as ShardName)
  const through = () =>
    archive.redoThrough().catch((error: unknown) => {
      // A timeline that nothing was archived of yet.
      if (isHoldfastError(error, 'restore_unreachable')) return undefined
      throw error
    })
  await eventually(async () => ((await through())?.lsn ?? 0n) >= to, 60_000)
  const from = (await through())?.from ?? since
  const imageOf = (image: RowImage | null) => image?.[value] ?? null
  const changesOf = ({ changes }: RedoTransaction): RowChanged[] =>
    changes.flatMap((change) => {
      if (change.op === 'truncate' || !change.relation.endsWith(`.${table}`)) return []
      const before = change.op === 'insert' ? null : change.before
      const after = change.op === 'delete' ? null : change.after
      return [{ place: String((after ?? before)?.[key]), before: imageOf(before), after: imageOf(after) }]
    })
  const redone: Redone[] = []
  for await (const one of archive.readRedo({ from: maxLsn(since, from), to })) {
    const changes = changesOf(one)
    if (changes.length > 0)
      redone.push({ name: nameOf(one), position: String(one.commitLsn), timestamp: timestampOf(one), changes })
  }
  const last = Object.fromEntries(rows.map(({ row }) => [String(row[key]), String(row[value])]))
  return { shard, isWhole: from <= since, redone, last }
}

function timestampOf({ identity }: RedoTransaction): string | null {
  return identity.kind === 'home' || identity.kind === 'branch' ? String(identity.commitTimestamp) : null
}
