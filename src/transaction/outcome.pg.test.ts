import { afterAll, beforeAll, expect, test } from 'vitest'
import { gatewayOf } from '../../test/support/approval.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { lookUpOutcome } from './outcome.ts'

let shards: DatabaseShards

beforeAll(async () => {
  shards = await DatabaseShards.open()
})

afterAll(async () => {
  await shards.close()
})

test('O1: who asks while the decision commits is told one thing', async () => {
  const environment = await gatewayOf(shards)
  const id = newTimeOrderedUuid() as TransactionId
  const decision = await Connection.connect(shards.target(home), 5_000)
  try {
    await decision.script(`begin;
      lock holdfast.transaction_record in access exclusive mode;
      insert into holdfast.commit_log values
        ('${id}', 7, pg_current_xact_id(), '${tenant}', 'a', 's', 'm', '{}', 1, '{${treasury}}');
      insert into holdfast.transaction_record (transaction_id, outcome, commit_timestamp, participants, home_epoch)
        values ('${id}', 'COMMITTED', 7, '{${treasury}}', 1)`)
    const told = lookUpOutcome(environment, id)
    await eventually(async () => {
      const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
      return (await shards.rows(home, waiting)).length > 0
    })
    await decision.script('commit')
    expect(await told).toMatchObject({ outcome: 'committed', home, commitTimestamp: 7n })
  } finally {
    decision.release()
  }
})
