import { afterEach, beforeEach, expect, test } from 'vitest'
import { DatabaseShards, home, treasury } from '../../test/support/database-shards.ts'
import { systemClock } from '../base/clock.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { formatGid } from '../transaction/gid.ts'
import { settleAll } from './cutover-fence.ts'

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(() => shards.close())

async function orphan(transactionId = newTimeOrderedUuid() as TransactionId): Promise<string> {
  const gid = formatGid('test', { home, transactionId, participant: treasury })
  const connection = await Connection.connect(shards.target(treasury, 'holdfast_gateway'), 10_000)
  await connection.query('begin')
  await connection.query(`prepare transaction '${gid}'`)
  connection.release()
  return gid
}

const settle = () => {
  const names: ShardName[] = [home, treasury]
  const fenced = names.map((shard) => ({ shard, epoch: shards.shard(shard).epoch, target: shards.target(shard) }))
  return settleAll(
    { fleet: 'test', clock: systemClock },
    fenced,
    new Map(names.map((shard) => [shard, shards.target(shard)])),
  )
}

test('K1: a branch without a record stops a cutover where its home may have collected that, and is rolled back elsewhere', async () => {
  const gid = await orphan()
  const [watermark] = await shards.rows<{ before: string }>(
    home,
    'select collected_through_ms as before from holdfast.shard',
  )
  await shards.rows(home, 'update holdfast.shard set collected_through_ms = (2 ^ 47)::bigint')
  await expect(settle()).rejects.toMatchObject({
    code: 'check_failed',
    hint: expect.stringContaining('roll it back by hand') as string,
    detail: { gid, home, shard: treasury },
  })
  expect(await shards.prepared(treasury)).toEqual([gid])
  await shards.rows(home, 'update holdfast.shard set collected_through_ms = $1', [watermark?.before])
  expect(await settle()).toBe('1 branches settled')
  expect(await shards.prepared(treasury)).toEqual([])
})

test('K1: a branch whose record was collected is committed by the commit log of its home, with its decision beside it (S1)', async () => {
  const transactionId = newTimeOrderedUuid() as TransactionId
  await orphan(transactionId)
  const [row] = await shards.rows<{ stamp: string }>(
    home,
    `insert into holdfast.commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor, placements,
       epoch, participants) values ($1, holdfast.wall_hlc(), '7', 't', 'a', 's', 'm', '{}', 1, array[$2])
     returning commit_timestamp::text as stamp`,
    [transactionId, treasury],
  )
  await shards.rows(home, 'update holdfast.shard set collected_through_ms = (2 ^ 47)::bigint')
  expect(await settle()).toBe('1 branches settled')
  expect(await shards.prepared(treasury)).toEqual([])
  const decided = await shards.rows(
    treasury,
    'select outcome, commit_timestamp::text as stamp, home, home_epoch from holdfast.decision where transaction_id = $1',
    [transactionId],
  )
  expect(decided).toEqual([{ outcome: 'COMMITTED', stamp: row?.stamp, home, home_epoch: shards.shard(home).epoch }])
})
