import { afterEach, beforeEach, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import type { ShardConfigInput } from '../../src/fleet/config.ts'
import { attachFleet } from '../../src/fleet/fleet.ts'
import type { ConnectionTarget } from '../../src/postgres/statement.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { nameInstalled, nameRelease, packageRelease } from '../../src/postgres/release.ts'
import { readInstalled } from '../../src/postgres/schema.ts'
import { eventually } from '../support/eventually.ts'
import { release0006ToFound, releaseWith } from '../support/releases.ts'
import {
  alone,
  draft,
  more,
  payroll,
  runs,
  runtimeOf,
  tenant,
  treasury,
  UpgradingFleet,
} from '../support/upgrading-fleet.ts'

/** A fleet that an earlier release founded, started by a later one: docs/protocols/upgrade.md. */

let fleet: UpgradingFleet

beforeEach(async () => {
  fleet = await UpgradingFleet.make()
})

afterEach(async () => {
  await fleet[Symbol.asyncDispose]()
})

test('U1, U2, U4: a fleet of an earlier release has the one of the code when it opens, on every node, and its rows', async () => {
  const release = await packageRelease()
  await fleet.start(await release0006ToFound())
  await fleet.ask(
    payroll,
    `insert into payroll_runs (tenant, id, status, total_cents) values ('${tenant}', 'before', 'draft', 1)`,
  )
  await fleet.ask(
    payroll,
    `insert into payroll_runs (tenant, id, status, total_cents) values ('acme-de', 'other', 'draft', 1)`,
  )
  await fleet.stop()

  await fleet.start(release)
  for (const shard of [payroll, treasury]) {
    const names = await fleet.releasesOf(shard)
    expect(names).toEqual([1, 2, 3].map(() => nameRelease(release)))
    expect(fleet.shardOf(shard).epoch).toBe(2)
  }
  await fleet.attached(release, async (gateway) => {
    await draft(gateway, 'after')
    expect(await runs(gateway)).toEqual(['after', 'before'])
    // Both shards, prepared and settled by functions that an earlier release did not have.
    const { transactionId } = await gateway.transact(
      { tenant, action: 'treasury.open', subject: 'a', actor: 'test' },
      async (tx) => {
        await tx.query('payroll', `update payroll_runs set total_cents = 2 where id = 'before'`)
        await tx.query(
          'treasury',
          `insert into treasury_accounts (tenant, id, balance_cents, reserved_cents) values ($1, 'a', 1, 0)`,
          [tenant],
        )
      },
    )
    expect(await gateway.transaction(transactionId)).toMatchObject({ outcome: 'committed' })
    await eventually(async () => (await gateway.archives()).every(({ gaps }) => gaps.length === 0))
  })
  const policies = await fleet.ask<{ policy: string }>(
    payroll,
    `select distinct polname as policy from pg_policy p join pg_class c on c.oid = p.polrelid
     where c.relname = 'payroll_runs' order by 1`,
  )
  expect(policies.map(({ policy }) => policy)).not.toContain('holdfast_tenant')
  await fleet.stop()

  await fleet.start(release)
  expect(fleet.shardOf(payroll).epoch).toBe(2)
  expect(await fleet.ask(payroll, 'select ordinal from public.holdfast_release')).toHaveLength(2)
})

test('U2: a start waits for a follower that has not replayed the release yet', async () => {
  const [before, after] = [await packageRelease(), await releaseWith(more)]
  const followed: ShardConfigInput = { durability: 'quorum', followers: ['eu-west', 'eu-west'] }
  await fleet.start(before, alone, followed)
  const { nodes, primary } = fleet.shardOf(payroll)
  const behind = fleet.supervisor.shardServers.adminTarget(
    present(
      nodes.find(({ id }) => id !== primary),
      'a follower',
    ),
  )
  // It takes the log and acknowledges it, and shows no commit of it.
  await withConnection(behind, (admin) => admin.query(`alter system set recovery_min_apply_delay = '1h'`))
  await fleet.stop()

  let isUp = false
  const starting = fleet.start(after, alone, followed).then(() => (isUp = true))
  await Promise.race([starting, untilLookedAt(behind)])
  expect(isUp).toBe(false)
  await withConnection(behind, async (admin) => {
    expect(nameInstalled(await readInstalled(admin))).toBe(nameRelease(before))
    await admin.query('alter system reset recovery_min_apply_delay')
    await admin.query('select pg_reload_conf()')
  })
  await starting
  expect(await fleet.releasesOf(payroll)).toEqual([1, 2, 3].map(() => nameRelease(after)))
})

/** Until a server that is being started has been asked again and again by others: whoever starts it waits for something there. */
async function untilLookedAt(target: ConnectionTarget): Promise<void> {
  await eventually(() => withConnection(target, () => Promise.resolve(true)).catch(() => false), 60_000)
  await withConnection(target, async (admin) => {
    const sessions = async () => {
      const { rows } = await admin.query<{ sessions: number }>(
        `select sessions::integer as sessions from pg_stat_database where datname = current_database()`,
      )
      return present(rows[0], 'this database').sessions
    }
    const first = await sessions()
    await eventually(async () => (await sessions()) > first + 20, 60_000)
  })
}

test('U5, U6: who attaches with another release is refused, and who has attached before cannot write any more', async () => {
  const [before, after] = [await packageRelease(), await releaseWith(more)]
  await fleet.start(before, alone)
  const dataDir = (await fleet.configuration()).dataDir
  await expect(attachFleet(dataDir, 'eu-west', runtimeOf(after))).rejects.toMatchObject({ code: 'release_differs' })
  const outlived = await attachFleet(dataDir, 'eu-west', { ...runtimeOf(before), services: false })
  try {
    await draft(outlived, 'one')
    await fleet.stop()
    await fleet.start(after, alone)
    await expect(draft(outlived, 'two')).rejects.toMatchObject({ code: 'shard_fenced' })
    await fleet.attached(after, async (gateway) => expect(await runs(gateway)).toEqual(['one']))
  } finally {
    await outlived.close()
  }
})
