import { afterEach, beforeEach, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import { silentProgress } from '../../src/base/progress.ts'
import { recoveryContext } from '../../src/fleet/operations/recovery-context.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { nameInstalled, nameRelease, packageRelease } from '../../src/postgres/release.ts'
import { readInstalled } from '../../src/postgres/schema.ts'
import { EnvironmentRegistry } from '../../src/recovery/environment.ts'
import { archivedAt } from '../support/recovery.ts'
import { releaseWith } from '../support/releases.ts'
import { alone, draft, more, payroll, runs, UpgradingFleet } from '../support/upgrading-fleet.ts'

/** What was backed up before an upgrade, and is restored behind it. */

let fleet: UpgradingFleet

beforeEach(async () => {
  fleet = await UpgradingFleet.make()
})

afterEach(async () => {
  await fleet[Symbol.asyncDispose]()
})

/** A commit can be restored to, and what came before it as well. */
async function archived({ commitTimestamp }: { readonly commitTimestamp: Hlc }): Promise<void> {
  await archivedAt(await recoveryContext(fleet.supervisor, silentProgress), commitTimestamp)
}

async function releaseOfRestored(environment: string): Promise<string> {
  const { home, servers } = fleet.supervisor
  const { shards } = await new EnvironmentRegistry(home.environmentsDir).load(environment)
  const { address } = present(
    shards.find(({ shard }) => shard === payroll),
    'it was restored',
  )
  const target = servers.adminTarget(present(address, 'its server runs'))
  const { release, migrations } = await withConnection(target, readInstalled)
  const { rows } = await withConnection(target, (admin) =>
    admin.query(`select from pg_policy where polrelid = 'public.payroll_runs'::regclass`),
  )
  return rows.length > 0 ? nameInstalled({ release, migrations }) : 'one without rules'
}

test('what was restored before an upgrade is brought to the release when a cutover takes it in', async () => {
  const [before, after] = [await packageRelease(), await releaseWith(more)]
  await fleet.start(before, alone)
  const environment = await fleet.attached(before, async (gateway) => {
    await gateway.backup()
    await draft(gateway, 'one')
    const { transactionId } = await draft(gateway, 'bad')
    await archived(await draft(gateway, 'two'))
    return (await gateway.restore({ before: transactionId, without: [transactionId] })).environment
  })
  await fleet.stop()

  await fleet.start(after, alone)
  const epoch = fleet.shardOf(payroll).epoch
  await fleet.attached(after, async (gateway) => {
    await draft(gateway, 'three')
    await gateway.cutover({ environment: present(environment, 'an environment was made') })
    await gateway.parts.topology.refresh()
    expect(await runs(gateway)).toEqual(['one', 'three', 'two'])
    await draft(gateway, 'four')
  })
  expect(fleet.shardOf(payroll).epoch).toBeGreaterThan(epoch)
  expect(await fleet.releasesOf(payroll)).toEqual([nameRelease(after)])
  expect(await fleet.ask(payroll, `select to_regclass('holdfast.more')::text as more`)).toEqual([
    { more: 'holdfast.more' },
  ])
})

test('R10: a restore whose redo crosses an upgrade changes the tables there, and goes on with the rows of the new shape', async () => {
  const before = await packageRelease()
  const after = await releaseWith({
    name: '9999-reshaping.sql',
    text: `
      alter table holdfast.commit_log add column channel text not null default 'none';
      alter table public.payroll_runs add column note text not null default 'old';
      update public.payroll_runs set note = 'kept' where id = 'one';`,
  })
  await fleet.start(before, alone)
  const bad = await fleet.attached(before, async (gateway) => {
    await gateway.backup()
    await draft(gateway, 'one')
    const { transactionId } = await draft(gateway, 'bad')
    await draft(gateway, 'two')
    return transactionId
  })
  await fleet.stop()

  await fleet.start(after, alone)
  const notes = () => fleet.ask(payroll, 'select id, note from payroll_runs order by id')
  await fleet.attached(after, async (gateway) => {
    await draft(gateway, 'three')
    await fleet.ask(payroll, `update payroll_runs set note = 'new' where id in ('two', 'three')`)
    await archived(await draft(gateway, 'four'))
    const { environment, conflicts } = await gateway.restore({ before: bad, without: [bad] })
    expect(conflicts).toEqual([])
    const restored = present(environment, 'an environment was made')
    expect(await releaseOfRestored(restored)).toBe(nameRelease(after))
    await draft(gateway, 'five')
    await gateway.cutover({ environment: restored })
    await gateway.parts.topology.refresh()
    expect(await runs(gateway)).toEqual(['five', 'four', 'one', 'three', 'two'])
    await draft(gateway, 'six')
  })
  expect(await notes()).toEqual([
    { id: 'five', note: 'old' },
    { id: 'four', note: 'old' },
    { id: 'one', note: 'kept' },
    { id: 'six', note: 'old' },
    { id: 'three', note: 'new' },
    { id: 'two', note: 'new' },
  ])
  expect(await fleet.releasesOf(payroll)).toEqual([nameRelease(after)])
  const [policies] = await fleet.ask<{ count: string }>(
    payroll,
    `select count(*)::text as count from pg_policy where polrelid = 'public.payroll_runs'::regclass and polname like 'holdfast%'`,
  )
  expect(policies).toEqual({ count: '4' })
})

test('R10: a restore goes on over a second upgrade, which undoes what the first one did', async () => {
  const noted = {
    name: '9998-noted.sql',
    text: `alter table public.payroll_runs add column note text not null default 'old', add column weight integer`,
  }
  const renamed = {
    name: '9999-renamed.sql',
    text: `
      alter table public.payroll_runs rename column note to remark;
      alter table public.payroll_runs drop column weight;
      update public.payroll_runs set remark = remark || ', again' where id = 'two';`,
  }
  const [first, second, third] = [await packageRelease(), await releaseWith(noted), await releaseWith([noted, renamed])]
  await fleet.start(first, alone)
  const bad = await fleet.attached(first, async (gateway) => {
    await gateway.backup()
    const { transactionId } = await draft(gateway, 'bad')
    await draft(gateway, 'one')
    return transactionId
  })
  await fleet.stop()
  await fleet.start(second, alone)
  await fleet.attached(second, async (gateway) => {
    await draft(gateway, 'two')
    await fleet.ask(payroll, `update payroll_runs set note = 'new', weight = 7 where id in ('one', 'two')`)
  })
  await fleet.stop()

  await fleet.start(third, alone)
  await fleet.attached(third, async (gateway) => {
    await fleet.ask(payroll, `update payroll_runs set remark = 'last' where id = 'one'`)
    await archived(await draft(gateway, 'three'))
    const { environment, conflicts } = await gateway.restore({ before: bad, without: [bad] })
    expect(conflicts).toEqual([])
    const restored = present(environment, 'an environment was made')
    expect(await releaseOfRestored(restored)).toBe(nameRelease(third))
    await gateway.cutover({ environment: restored })
  })
  expect(await fleet.ask(payroll, 'select id, remark from payroll_runs order by id')).toEqual([
    { id: 'one', remark: 'last' },
    { id: 'three', remark: 'old' },
    { id: 'two', remark: 'new, again' },
  ])
})
