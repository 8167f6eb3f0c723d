import { afterAll, beforeAll, expect, test } from 'vitest'
import type { ShardName } from '../../src/directory/topology.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { collectionOptions } from '../../src/fleet/gateway-parts.ts'
import { collectOnce } from '../../src/transaction/collector.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** The collection of records on a fleet with followers and archives: what shows that they may go is really there. */

const payroll = 'eu-west/payroll' as ShardName
const treasury = 'us-east/treasury'

let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west', { archives: 'all' })
})

afterAll(() => fleet?.close())

const records = () =>
  fleet.ask<{ id: string }>(payroll, 'select transaction_id as id from holdfast.transaction_record order by 1')

test('HZ-X2: a record that is settled, replicated and archived is collected, and a failover brings no branch back', async () => {
  await seedTenant(gateway, 'globex-eu')
  const [record] = await records()
  const id = String(record?.id)
  expect(record).toBeDefined()
  const { environment } = gateway.parts
  const options = { ...collectionOptions(gateway.parts), windowMs: 0 }
  // A pass is given up while another transaction is open, or an archive is not there yet.
  await eventually(async () => {
    await collectOnce(environment, payroll, options)
    return (await records()).length === 0
  }, 120_000)
  const places = await Promise.all(
    [payroll, treasury].map((shard) =>
      fleet.ask<{ archived: boolean }>(
        shard,
        `select bool_and(coalesce(confirmed_flush_lsn, restart_lsn) > '0/0') as archived from pg_replication_slots
         where slot_name in ('hf_archive', 'hf_redo') having count(*) = 2`,
      ),
    ),
  )
  expect(places).toEqual([[{ archived: true }], [{ archived: true }]])

  await fleet.failover(treasury)
  expect(await fleet.prepared()).toEqual([])
  const told = await fleet.ask<{ through: string }>(
    treasury,
    'select collected_through_ms as through from holdfast.peer where shard = $1',
    [payroll],
  )
  expect(Number(told[0]?.through)).toBeGreaterThan(0)
  await gateway.parts.topology.refresh()
  const branches = [{ shard: treasury, state: 'committed' }]
  expect(await gateway.transaction(id)).toMatchObject({ outcome: 'committed', home: payroll, record: null, branches })
  const { links } = await gateway.prove(id)
  expect(links.find(({ link }) => link === 'decision')).toMatchObject({ status: 'proven' })
})
