import { spawn } from 'node:child_process'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { configBelow } from '../../examples/payledger/demo/config.ts'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { present } from '../../src/base/assert.ts'
import { silentProgress } from '../../src/base/progress.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import type { FleetConfigInput, ShardConfigInput } from '../../src/fleet/config.ts'
import type { EmbeddedFleet } from '../../src/fleet/fleet.ts'
import { attachFleet, quietRuntime, resolveConfig, startFleet } from '../../src/fleet/fleet.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { recoveryContext } from '../../src/fleet/operations/recovery-context.ts'
import { nodeOf } from '../../src/fleet/shard-servers.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import type { ConnectionTarget, Row } from '../../src/postgres/connection.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import type { Release } from '../../src/postgres/release.ts'
import { nameInstalled, nameRelease, packageRelease } from '../../src/postgres/release.ts'
import { installSchema, readInstalled } from '../../src/postgres/schema.ts'
import { EnvironmentRegistry } from '../../src/recovery/environment.ts'
import { archivedAt } from '../support/recovery.ts'
import { eventually } from '../support/eventually.ts'
import { temporaryFolder } from '../support/fleet.ts'
import { release0006ToFound, releaseWith } from '../support/releases.ts'

/** A fleet that an earlier release founded, started by a later one: docs/protocols/upgrade.md. */

const payroll = 'eu-west/payroll' as ShardName
const treasury = 'us-east/treasury' as ShardName
const tenant = 'globex-eu'

let root: string
let fleet: EmbeddedFleet | undefined

beforeEach(async () => {
  root = await temporaryFolder()
})

afterEach(async () => {
  await fleet?.stop()
  fleet = undefined
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

const alone: ShardConfigInput = { durability: 'local', followers: [] }

async function configuration(
  shard?: ShardConfigInput,
  ofPayroll = shard,
): Promise<FleetConfigInput & { readonly dataDir: string }> {
  const config = await configBelow(root)
  if (shard === undefined || ofPayroll === undefined) return config
  return { ...config, shards: { [payroll]: ofPayroll, [treasury]: shard } }
}

async function start(release: Release, shard?: ShardConfigInput, ofPayroll?: ShardConfigInput): Promise<EmbeddedFleet> {
  const { reference, config } = await resolveConfig({ config: await configuration(shard, ofPayroll) })
  fleet = await startFleet(reference, config, false, runtimeOf(release))
  return fleet
}

async function stop(): Promise<void> {
  await fleet?.stop()
  fleet = undefined
}

const runtimeOf = (release: Release) => ({ ...quietRuntime, release: () => Promise.resolve(release) })

async function attached<T>(release: Release, use: (gateway: Gateway) => Promise<T>): Promise<T> {
  const runtime = { ...runtimeOf(release), archives: 'all' } as const
  const gateway = await attachFleet((await configuration()).dataDir, 'eu-west', runtime)
  try {
    return await use(gateway)
  } finally {
    await gateway.close()
  }
}

const supervisor = () => present(fleet, 'a fleet runs').supervisor
const shardOf = (name: ShardName) => supervisor().topology.shard(name)

async function ask<R = Row>(shard: ShardName, text: string): Promise<R[]> {
  const document = shardOf(shard)
  const target = supervisor().shardServers.adminTarget(nodeOf(document, document.primary))
  return (await withConnection(target, (admin) => admin.query<R>(text))).rows
}

async function releasesOf(shard: ShardName): Promise<string[]> {
  const { shardServers } = supervisor()
  return Promise.all(
    shardOf(shard).nodes.map(async (node) =>
      nameInstalled(await withConnection(shardServers.adminTarget(node), readInstalled)),
    ),
  )
}

/** A commit can be restored to, and what came before it as well. */
async function archived({ commitTimestamp }: { readonly commitTimestamp: Hlc }): Promise<void> {
  await archivedAt(await recoveryContext(supervisor(), silentProgress), commitTimestamp)
}

async function releaseOfRestored(environment: string): Promise<string> {
  const { home, servers } = supervisor()
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

const draft = (gateway: Gateway, run: string) =>
  gateway.transact({ tenant, action: 'payroll.draft', subject: run, actor: 'test' }, (tx) =>
    tx.query('payroll', `insert into payroll_runs (tenant, id, status, total_cents) values ($1, $2, 'draft', 1)`, [
      tenant,
      run,
    ]),
  )

const runs = async (gateway: Gateway) => {
  const { value } = await gateway.read({ tenant, level: 'primary' }, (read) =>
    read.query<{ id: string }>('payroll', 'select id from payroll_runs order by id'),
  )
  return value.rows.map(({ id }) => id)
}

/** A migration that does something on the treasury alone. */
const onTreasury = (what: string) => ({
  name: '9999-more.sql',
  text: `
    create table holdfast.more (id integer);
    do $$ begin if (select s.shard from holdfast.shard s) = '${treasury}' then ${what}; end if; end $$;`,
})

const more = onTreasury('null')

test('U1, U2, U4: a fleet of an earlier release has the one of the code when it opens, on every node, and its rows', async () => {
  const release = await packageRelease()
  await start(await release0006ToFound())
  await ask(
    payroll,
    `insert into payroll_runs (tenant, id, status, total_cents) values ('${tenant}', 'before', 'draft', 1)`,
  )
  await ask(
    payroll,
    `insert into payroll_runs (tenant, id, status, total_cents) values ('acme-de', 'other', 'draft', 1)`,
  )
  await stop()

  await start(release)
  for (const shard of [payroll, treasury]) {
    const names = await releasesOf(shard)
    expect(names).toEqual([1, 2, 3].map(() => nameRelease(release)))
    expect(shardOf(shard).epoch).toBe(2)
  }
  await attached(release, async (gateway) => {
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
  const policies = await ask<{ policy: string }>(
    payroll,
    `select distinct polname as policy from pg_policy p join pg_class c on c.oid = p.polrelid
     where c.relname = 'payroll_runs' order by 1`,
  )
  expect(policies.map(({ policy }) => policy)).not.toContain('holdfast_tenant')
  await stop()

  await start(release)
  expect(shardOf(payroll).epoch).toBe(2)
  expect(await ask(payroll, 'select ordinal from public.holdfast_release')).toHaveLength(2)
})

test('U2: a start waits for a follower that has not replayed the release yet', async () => {
  const [before, after] = [await packageRelease(), await releaseWith(more)]
  const followed: ShardConfigInput = { durability: 'quorum', followers: ['eu-west', 'eu-west'] }
  await start(before, alone, followed)
  const { nodes, primary } = shardOf(payroll)
  const behind = supervisor().shardServers.adminTarget(
    present(
      nodes.find(({ id }) => id !== primary),
      'a follower',
    ),
  )
  // It takes the log and acknowledges it, and shows no commit of it.
  await withConnection(behind, (admin) => admin.query(`alter system set recovery_min_apply_delay = '1h'`))
  await stop()

  let isUp = false
  const starting = start(after, alone, followed).then(() => (isUp = true))
  await Promise.race([starting, untilLookedAt(behind)])
  expect(isUp).toBe(false)
  await withConnection(behind, async (admin) => {
    expect(nameInstalled(await readInstalled(admin))).toBe(nameRelease(before))
    await admin.query('alter system reset recovery_min_apply_delay')
    await admin.query('select pg_reload_conf()')
  })
  await starting
  expect(await releasesOf(payroll)).toEqual([1, 2, 3].map(() => nameRelease(after)))
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
  await start(before, alone)
  const dataDir = (await configuration()).dataDir
  await expect(attachFleet(dataDir, 'eu-west', runtimeOf(after))).rejects.toMatchObject({ code: 'release_differs' })
  const outlived = await attachFleet(dataDir, 'eu-west', { ...runtimeOf(before), services: false })
  try {
    await draft(outlived, 'one')
    await stop()
    await start(after, alone)
    await expect(draft(outlived, 'two')).rejects.toMatchObject({ code: 'shard_fenced' })
    await attached(after, async (gateway) => expect(await runs(gateway)).toEqual(['one']))
  } finally {
    await outlived.close()
  }
})

test('what was restored before an upgrade is brought to the release when a cutover takes it in', async () => {
  const [before, after] = [await packageRelease(), await releaseWith(more)]
  await start(before, alone)
  const environment = await attached(before, async (gateway) => {
    await gateway.backup()
    await draft(gateway, 'one')
    const { transactionId } = await draft(gateway, 'bad')
    await archived(await draft(gateway, 'two'))
    return (await gateway.restore({ before: transactionId, without: [transactionId] })).environment
  })
  await stop()

  await start(after, alone)
  const epoch = shardOf(payroll).epoch
  await attached(after, async (gateway) => {
    await draft(gateway, 'three')
    await gateway.cutover({ environment: present(environment, 'an environment was made') })
    await gateway.parts.topology.refresh()
    expect(await runs(gateway)).toEqual(['one', 'three', 'two'])
    await draft(gateway, 'four')
  })
  expect(shardOf(payroll).epoch).toBeGreaterThan(epoch)
  expect(await releasesOf(payroll)).toEqual([nameRelease(after)])
  expect(await ask(payroll, `select to_regclass('holdfast.more')::text as more`)).toEqual([{ more: 'holdfast.more' }])
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
  await start(before, alone)
  const bad = await attached(before, async (gateway) => {
    await gateway.backup()
    await draft(gateway, 'one')
    const { transactionId } = await draft(gateway, 'bad')
    await draft(gateway, 'two')
    return transactionId
  })
  await stop()

  await start(after, alone)
  const notes = () => ask(payroll, 'select id, note from payroll_runs order by id')
  await attached(after, async (gateway) => {
    await draft(gateway, 'three')
    await ask(payroll, `update payroll_runs set note = 'new' where id in ('two', 'three')`)
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
  expect(await releasesOf(payroll)).toEqual([nameRelease(after)])
  const [policies] = await ask<{ count: string }>(
    payroll,
    `select count(*)::text as count from pg_policy where polrelid = 'public.payroll_runs'::regclass and polname like 'holdfast%'`,
  )
  expect(policies).toEqual({ count: '4' })
})

describe('U1, U3: an upgrade that does not get to its end', () => {
  const failing = onTreasury(`raise exception 'not here'`)

  test('a statement that one shard refuses is named with it, and no shard is changed', async () => {
    const before = await packageRelease()
    await start(before, alone)
    await attached(before, (gateway) => draft(gateway, 'one'))
    await stop()

    await expect(start(await releaseWith(failing), alone)).rejects.toMatchObject({
      code: 'upgrade_failed',
      message: expect.stringMatching(
        /^us-east\/treasury: 9999-more\.sql: not here \(SQLSTATE P0001\) in: do \$\$ begin/,
      ),
      detail: { shard: treasury },
    })
    expect((await leftBehind(root)).filter((what) => what !== root)).toEqual([])

    await start(before, alone)
    expect(shardOf(payroll).epoch).toBe(1)
    await attached(before, async (gateway) => expect(await runs(gateway)).toEqual(['one']))
  })

  test('a later release is named, and how to mend it; nothing is changed', async () => {
    const [before, after] = [await packageRelease(), await releaseWith(more, '99.0.0')]
    await start(after, alone)
    await stop()
    await expect(start(before, alone)).rejects.toMatchObject({
      code: 'release_newer',
      message: `eu-west/payroll was brought to release 99.0.0 with schema 9999-more; this is ${nameRelease(before)}`,
      hint: expect.stringContaining('start it with that release or a later one'),
    })
    await start(after, alone)
    expect(shardOf(payroll).epoch).toBe(1)
  })

  test('a branch in doubt is left to the release that prepared it', async () => {
    const [before, after] = [await packageRelease(), await releaseWith(more)]
    await start(before, alone)
    const { shardServers } = supervisor()
    await withConnection(shardServers.adminTarget(nodeOf(shardOf(payroll), shardOf(payroll).primary)), (admin) =>
      admin.script(`
        begin;
        insert into payroll_runs (tenant, id, status, total_cents) values ('${tenant}', 'x', 'draft', 1);
        prepare transaction 'hf_left'`),
    )
    await stop()
    await expect(start(after, alone)).rejects.toMatchObject({
      code: 'upgrade_blocked',
      message: 'eu-west/payroll cannot be upgraded: 1 branches are in doubt, first hf_left',
      hint: expect.stringContaining(nameRelease(before)),
    })
    // With what it has, it starts as ever.
    await start(before, alone)
    expect(await ask(treasury, `select to_regclass('holdfast.more') as more`)).toEqual([{ more: null }])
    await ask(payroll, `rollback prepared 'hf_left'`)
    await stop()
    await start(after, alone)
    expect(await ask(treasury, `select to_regclass('holdfast.more')::text as more`)).toEqual([
      { more: 'holdfast.more' },
    ])
  })

  test('a supervisor that is killed in the middle of it is followed by one that does it', async () => {
    const before = await packageRelease()
    await start(before, alone)
    await attached(before, (gateway) => draft(gateway, 'one'))
    await stop()
    await killUpgrading(await releaseWith(onTreasury('perform pg_sleep(3600)')))

    // The name is free: no shard got through it.
    const after = await releaseWith(more)
    await start(after, alone)
    for (const shard of [payroll, treasury]) {
      expect(await releasesOf(shard)).toEqual([nameRelease(after)])
      expect(shardOf(shard).epoch).toBe(2)
    }
    await attached(after, async (gateway) => expect(await runs(gateway)).toEqual(['one']))
  })

  test('one that is killed when one shard has it and one has not is followed by one that does the rest', async () => {
    const [before, after] = [await packageRelease(), await releaseWith(more)]
    await start(before, alone)
    await stop()
    await start(before, alone)
    const document = shardOf(payroll)
    const target = supervisor().shardServers.adminTarget(nodeOf(document, document.primary))
    await withConnection(target, (admin) => installSchema(admin, after))
    await stop()
    await expect(start(before, alone)).rejects.toMatchObject({ code: 'release_newer' })

    await start(after, alone)
    for (const shard of [payroll, treasury]) {
      expect(await releasesOf(shard)).toEqual([nameRelease(after)])
      expect(shardOf(shard).epoch).toBe(2)
    }
    await attached(after, (gateway) => draft(gateway, 'one'))
  })
})

/** Kills a supervisor with `kill -9` once a shard is in the middle of its upgrade. */
async function killUpgrading(release: Release): Promise<void> {
  const program = join(root, 'upgrade.mjs')
  const input = join(root, 'upgrade.json')
  const fleetModule = pathToFileURL(join(import.meta.dirname, '../../dist/fleet/fleet.js')).href
  await writeFile(input, JSON.stringify({ release, config: await configuration(alone) }))
  await writeFile(
    program,
    `import { readFileSync } from 'node:fs'
     import { quietRuntime, resolveConfig, startFleet } from ${JSON.stringify(fleetModule)}
     const { release, config: input } = JSON.parse(readFileSync(${JSON.stringify(input)}, 'utf8'))
     const { reference, config } = await resolveConfig({ config: input })
     const fleet = await startFleet(reference, config, false, { ...quietRuntime, release: async () => release })
     await fleet.stop()`,
  )
  const child = spawn(process.execPath, [program], { stdio: ['ignore', 'ignore', 'inherit'] })
  const ended = new Promise((resolve) => child.once('close', resolve))
  try {
    // A statement that is still there at the tenth look is the one that sleeps.
    let looks = 0
    await eventually(async () => {
      if (child.exitCode !== null) throw new Error('it was not kept by its migration: is what is built older?')
      looks = (await leftBehind(root)).some((what) => / DO\b/.test(what)) ? looks + 1 : 0
      return looks >= 10
    }, 60_000)
  } finally {
    child.kill('SIGKILL')
    await ended
  }
}
