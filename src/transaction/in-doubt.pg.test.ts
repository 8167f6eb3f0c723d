import { afterAll, beforeAll, expect, test } from 'vitest'
import { approve, gate, gatewayOf, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { Connection } from '../postgres/connection.ts'
import { pushBranch } from './in-doubt.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards

beforeAll(async () => {
  shards = await DatabaseShards.open()
})

afterAll(async () => {
  await shards.close()
})

test('HZ-X3: a branch that is settled while somebody looks for it is not absent', async () => {
  // Whoever looks at branches has his snapshot, and waits with it while the lock is held.
  await shards.admin(treasury).script(`
    create function held() returns boolean language plpgsql as $$
      begin perform pg_advisory_xact_lock_shared(42); return true; end $$;
    alter table holdfast.branch rename to branch_held;
    create view holdfast.branch as select b.* from holdfast.branch_held b where (select held());
    alter view holdfast.branch owner to holdfast_owner;
    grant select on holdfast.branch to holdfast_gateway`)
  const stop = gate('global decision row')
  const slow = await gatewayOf(shards, { onStep: stop.onStep })
  const run = newRun()
  const { transactionId } = await transact(slow, request(run), approve(run))
  await stop.reached

  const holder = await Connection.connect(shards.target(treasury), 5_000)
  try {
    await holder.query('select pg_advisory_lock(42)')
    const pushed = pushBranch(await gatewayOf(shards), treasury, transactionId)
    await eventually(async () => {
      const waiting = `select from pg_locks where locktype = 'advisory' and objid = 42 and not granted
        and database = (select oid from pg_database where datname = current_database())`
      return (await shards.rows(treasury, waiting)).length > 0
    })
    stop.release()
    await eventually(async () => (await shards.prepared(treasury)).length === 0)
    await holder.query('select pg_advisory_unlock(42)')
    expect(await pushed).toEqual({ kind: 'settled', outcome: 'COMMITTED' })
  } finally {
    holder.release()
  }
})
