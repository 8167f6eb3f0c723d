import { mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { eventually } from '../../test/support/eventually.ts'
import { temporaryFolder } from '../../test/support/fleet.ts'
import { releaseWith } from '../../test/support/releases.ts'
import { more } from '../../test/support/upgrading-fleet.ts'
import { present } from '../base/assert.ts'
import { silentProgress } from '../base/progress.ts'
import type { OnStep } from '../base/step.ts'
import { noStep } from '../base/step.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { Release } from '../postgres/release.ts'
import { nameRelease, packageRelease } from '../postgres/release.ts'
import { installSchema } from '../postgres/schema.ts'
import { childrenOf, readPidFile, signal } from '../postgres/server/processes.ts'
import { standingOf } from '../recovery/cutover-fleet.ts'
import type { FleetConfigInput, ShardConfigInput } from './config.ts'
import { loadConfig } from './config.ts'
import type { FailoverReport } from './operations-api.ts'
import { cutoverFleet } from './operations/cutover-steps.ts'
import { callTo } from './operations/operations.ts'
import { nodeOf } from './shard-servers.ts'
import { Supervisor } from './supervisor.ts'
import type { NodeDocument } from './topology-store.ts'
import { TakingUp } from './taking-up.ts'

/** V10, on real servers: what one shard lacks at a start keeps no other from its traffic, nor the operator from a failover. */

const payroll = 'eu-west/payroll' as ShardName
const treasury = 'eu-west/treasury' as ShardName
vi.setConfig({ testTimeout: 240_000 })

const alone: ShardConfigInput = { durability: 'local', followers: [] }
const followed: ShardConfigInput = { durability: 'quorum', followers: ['eu-central', 'eu-central'] }
const both = { [payroll]: followed, [treasury]: alone }

interface Start {
  readonly shards?: Readonly<Record<string, ShardConfigInput>>
  readonly release?: Release
  readonly onStep?: OnStep
  readonly maxClockOffset?: number
  readonly gained?: Partial<FleetConfigInput>
}

/** A tenant whose authority may be in one region only. */
const umbrella = {
  domains: { accounts: { class: 'regulated', placement: 'tenant-home', schema: './tables', tables: ['accounts'] } },
  tenants: {
    'umbrella-eu': {
      home: payroll,
      policy: { authority: ['eu-west'], replicas: ['EU'], otherwise: 'reject' },
    },
  },
} satisfies Partial<FleetConfigInput>

let root: string
let supervisor: Supervisor
let alarms: string[] = []

function configOf({ shards = both, maxClockOffset = 500, gained = {} }: Start) {
  return loadConfig(
    {
      fleet: 'left-out',
      dataDir: `${root}/data`,
      maxClockOffset,
      regions: { 'eu-west': { jurisdiction: 'EU' }, 'eu-central': { jurisdiction: 'EU' } },
      shards,
      domains: {},
      tenants: {},
      ...gained,
    },
    root,
  )
}

async function start(given: Start = {}): Promise<void> {
  const { release, onStep = noStep } = given
  const config = await configOf(given)
  const progress = ({ step, detail }: { step: string; detail?: string }) => {
    if (step === 'alarm') alarms.push(detail ?? '')
  }
  supervisor = await Supervisor.start({
    config,
    wan: false,
    progress,
    onStep,
    release: release ?? (await packageRelease()),
  })
}

beforeEach(async () => {
  alarms = []
  root = await temporaryFolder()
  await mkdir(join(root, 'tables'))
  const table = 'create table accounts (tenant text not null, id text not null, primary key (tenant, id))'
  await writeFile(join(root, 'tables', '0001.sql'), table)
})

afterEach(async () => {
  await supervisor.close()
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

const shard = (name = payroll) => supervisor.topology.shard(name)
const directoryOf = (name: ShardName, id: NodeId = shard(name).primary) =>
  supervisor.servers.dataDirOf(nodeOf(shard(name), id).folder)

const onPrimary = <T>(name: ShardName, use: (admin: Connection) => Promise<T>) =>
  withConnection(supervisor.shardServers.adminTarget(nodeOf(shard(name), shard(name).primary)), use)

const ask = async <R>(text: string): Promise<R[]> =>
  (await onPrimary(payroll, (admin) => admin.query<R & Record<string, unknown>>(text))).rows

/** As a start does that is killed before it does more. */
const install = (name: ShardName, release: Release) => onPrimary(name, (admin) => installSchema(admin, release))

/** Each of them acknowledged. */
async function writeRows(): Promise<void> {
  await ask('create table kept as select g as id from generate_series(1, 100) g')
  await ask('insert into kept values (101)')
}

const rows = async () => (await ask<{ n: number }>('select count(*)::int as n from kept'))[0]?.n

async function connectAsGateway(name: ShardName): Promise<void> {
  const node = nodeOf(shard(name), shard(name).primary)
  const connection = await Connection.connect(supervisor.servers.target(node, 'holdfast_gateway', 'test'), 10_000)
  connection.release()
}

const failover = async () =>
  (await callTo(supervisor)('failover', { shard: payroll }, silentProgress)) as FailoverReport

/** Every place filled, and commits that wait for who is there. */
async function whole(...numbers: number[]): Promise<void> {
  const ids = () => shard().nodes.map(({ id }) => id)
  await eventually(() => shard().state === 'open' && (shard().retired ?? []).length === 0, 90_000)
  expect(ids().toSorted()).toEqual(numbers.map((number) => `${payroll}.${number}`))
  const wanted = supervisor.shardServers.synchronousNames(payroll, shard())
  await eventually(async () => {
    const found = await ask<{ names: string }>(`select current_setting('synchronous_standby_names') as names`)
    return isDeepStrictEqual(found, [{ names: wanted }])
  })
  await supervisor.shardServers.barrier(nodeOf(shard(), shard().primary), 30_000)
}

/** Stops the fleet and takes a file of a primary away; gives what puts it back. */
async function stopWithout(name: ShardName): Promise<() => Promise<void>> {
  const control = join(directoryOf(name), 'global', 'pg_control')
  await supervisor.close()
  const text = await readFile(control)
  await truncate(control, 100)
  return () => writeFile(control, text)
}

describe('a shard whose primary does not start', () => {
  test('because its directory is gone keeps no other from its traffic, and is failed over', async () => {
    await start()
    await writeRows()
    const lost = directoryOf(payroll)
    // As when their machine loses power.
    for (const { id } of shard().nodes) await supervisor.servers.kill(id)
    await supervisor.close()
    await rm(lost, { recursive: true })

    await start({ maxClockOffset: 250 })
    expect(shard(treasury).state).toBe('open')
    await connectAsGateway(treasury)
    expect(shard()).toMatchObject({ state: 'fenced', epoch: 1, primary: `${payroll}.1` })
    expect(alarms).toEqual([
      expect.stringMatching(
        /^eu-west\/payroll takes no traffic, and the fleet starts without it; .* holdfast failover eu-west\/payroll --what-if\. /,
      ),
    ])
    const { options } = (await callTo(supervisor)(
      'failover',
      { shard: payroll, whatIf: true },
      silentProgress,
    )) as FailoverReport
    expect(options.legal.map(({ region }) => region)).toEqual(['eu-central'])

    expect((await failover()).promoted).toMatchObject({ region: 'eu-central', epoch: 2 })
    expect(shard().state).toBe('open')
    await connectAsGateway(payroll)
    expect(await rows()).toBe(101)
    // What the configuration gained before it was down.
    expect(await ask('select max_clock_offset_ms from holdfast.shard')).toEqual([{ max_clock_offset_ms: 250 }])
    await whole(2, 3, 4)

    await supervisor.close()
    alarms = []
    await start()
    expect([shard().state, shard(treasury).state, ...alarms]).toEqual(['open', 'open'])
    expect(await rows()).toBe(101)
    await whole(2, 3, 4)
  })

  test('because its data is not what it was opens by itself, once it is', async () => {
    await start()
    await writeRows()
    const putBack = await stopWithout(payroll)
    await start({ maxClockOffset: 250 })
    await connectAsGateway(treasury)
    expect(shard().state).toBe('fenced')
    expect(alarms).toEqual([expect.stringContaining('the server ended while it started')])
    await putBack()
    await eventually(() => shard().state === 'open', 90_000)
    await connectAsGateway(payroll)
    expect(await rows()).toBe(101)
    expect(await ask('select max_clock_offset_ms from holdfast.shard')).toEqual([{ max_clock_offset_ms: 250 }])
    await whole(1, 2, 3)
  })

  test('and that is the only one of its fleet is failed over', async () => {
    await start({ shards: { [payroll]: followed } })
    await writeRows()
    await stopWithout(payroll)
    await start({ shards: { [payroll]: followed } })
    expect(shard().state).toBe('fenced')
    await failover()
    expect(await rows()).toBe(101)
    await whole(2, 3, 4)
  })

  test('and that was being promoted when the fleet stopped is promoted once it starts', async () => {
    await start({
      onStep: (step) => (step === 'promotion history' ? Promise.reject(new Error('broken off')) : Promise.resolve()),
    })
    await writeRows()
    await expect(failover()).rejects.toThrow('broken off')
    const putBack = await stopWithout(payroll)
    await start()
    expect(shard(treasury).state).toBe('open')
    expect(shard()).toMatchObject({ state: 'fenced', epoch: 2 })
    const [other] = shard().nodes.filter(({ id }) => id !== shard().primary) as [NodeDocument]
    expect(supervisor.servers.isRunning(other.id)).toBe(true)
    // As the status asks it.
    await withConnection(supervisor.servers.target(other, 'holdfast_gateway', 'test'), () => Promise.resolve())
    const way = `bring the data directory of ${shard().primary} back, and its promotion goes on by itself`
    expect(alarms.some((alarm) => alarm.includes(way) && alarm.includes(`gives up what ${other.id} has`))).toBe(true)
    expect(() => standingOf(cutoverFleet(supervisor), payroll, true)).toThrow('is being promoted')
    await putBack()
    await eventually(() => shard().state === 'open', 90_000)
    expect(await rows()).toBe(101)
  })

  test('where nobody else runs, nothing is gained by a start', async () => {
    const shards = { [treasury]: alone }
    await start({ shards })
    const putBack = await stopWithout(treasury)
    await expect(start({ shards })).rejects.toMatchObject({ code: 'server_failed' })
    await putBack()
    await start({ shards })
    expect(shard(treasury).state).toBe('open')
  })
})

describe('what the configuration gained while its shard is left out', () => {
  const refusal = /policy version 1 of tenant umbrella-eu, domain accounts forbids the authority in eu-central/

  test('is the law of a failover before its rows are there', async () => {
    await start()
    const putBack = await stopWithout(payroll)
    await start({ gained: umbrella })
    expect(shard(treasury).state).toBe('open')
    const asked = await callTo(supervisor)('failover', { shard: payroll, whatIf: true }, silentProgress)
    const { options } = asked as FailoverReport
    expect(options.legal).toEqual([])
    expect(options.refused).toMatchObject([{ region: 'eu-central', reasons: [expect.stringMatching(refusal)] }])
    await expect(failover()).rejects.toMatchObject({ code: 'residency_denied' })
    expect(shard()).toMatchObject({ state: 'lost', epoch: 1, primary: `${payroll}.1` })
    await putBack()
    await eventually(() => shard().state === 'open', 90_000)
    expect(await ask('select tenant, shard from holdfast.placement')).toEqual([
      { tenant: 'umbrella-eu', shard: payroll },
    ])
  })

  test('is not taken up where the primary may not hold it', async () => {
    await start()
    await failover()
    const takingUp = new TakingUp(await configOf({ gained: umbrella }), supervisor.shardServers)
    takingUp.expect([payroll])
    await expect(takingUp.run(payroll, shard())).rejects.toMatchObject({
      code: 'residency_denied',
      message: expect.stringMatching(refusal) as unknown,
    })
    expect(
      await ask(`select to_regclass('accounts') as "table", (select count(*)::int from holdfast.placement)`),
    ).toEqual([{ table: null, count: 0 }])
  })
})

describe('a shard whose primary starts, and', () => {
  const policy = { authority: ['eu-west', 'eu-central'], replicas: ['EU'], otherwise: 'reject' } as const
  const gained = { ...umbrella, tenants: { 'umbrella-eu': { home: payroll, policy } } }

  test.each(['public.holdfast_migration', 'holdfast.shard', 'holdfast.governed', 'holdfast.placement'])(
    'does not have its %s keeps no other from its traffic, and is failed over',
    async (relation) => {
      await start({ gained })
      await writeRows()
      // The topology was not told of it, as when a start ended in between.
      await ask('update holdfast.shard set epoch = epoch + 1')
      await ask('checkpoint')
      await eventually(async () => {
        const { rowCount } = await onPrimary(payroll, (admin) =>
          admin.query('select from pg_stat_replication where replay_lsn >= pg_current_wal_insert_lsn()'),
        )
        return rowCount === 2
      })
      const [file] = await ask<{ path: string }>(`select pg_relation_filepath('${relation}') as path`)
      const damaged = join(directoryOf(payroll), present(file, 'a relation').path)
      await supervisor.close()
      await rm(damaged)

      await start({ gained })
      expect(shard(treasury).state).toBe('open')
      await connectAsGateway(treasury)
      expect(shard()).toMatchObject({ state: 'fenced', epoch: 2 })
      await expect(connectAsGateway(payroll)).rejects.toThrow()
      expect(alarms).toEqual([
        expect.stringMatching(/holdfast failover eu-west\/payroll --what-if\. could not open file/),
      ])

      expect((await failover()).promoted).toMatchObject({ region: 'eu-central', epoch: 3 })
      await connectAsGateway(payroll)
      expect(await rows()).toBe(101)
      await whole(2, 3, 4)
    },
  )

  test('has a branch in doubt on a table that the configuration changes is not left out: the one before settles it', async () => {
    await start({ gained })
    await onPrimary(payroll, (admin) =>
      admin.script(`begin; lock table accounts in row share mode; prepare transaction 'hf_in_doubt'`),
    )
    await supervisor.close()
    await writeFile(join(root, 'tables', '0002.sql'), 'alter table accounts add column note text')
    await expect(start({ gained })).rejects.toMatchObject({ code: 'node_unavailable' })
  })
})

test('a shard whose barrier does not pass keeps no other from its traffic, and opens when a follower is back', async () => {
  const shards = {
    ...both,
    [payroll]: { durability: 'quorum', followers: ['eu-central'], survive: 'region' },
  } satisfies Start['shards']
  await start({ shards })
  await writeRows()
  const follower = directoryOf(payroll, `${payroll}.2` as NodeId)
  await supervisor.close()
  const frozen: number[] = []
  // It streamed until then, and acknowledges nothing from here on.
  const freeze: OnStep = async (step, where) => {
    if (step !== 'opening barrier' || where.shard !== payroll || frozen.length > 0) return
    const { pid } = present(await readPidFile(follower), 'it runs')
    frozen.push(pid, ...(await childrenOf(pid)))
    for (const one of frozen) signal(one, 'SIGSTOP')
  }
  try {
    await start({ shards, onStep: freeze })
    expect(frozen).not.toEqual([])
    await connectAsGateway(treasury)
    expect(shard().state).toBe('fenced')
    await expect(connectAsGateway(payroll)).rejects.toMatchObject({ sqlState: '28000' })
    expect(alarms).toEqual([expect.stringContaining(`holdfast failover ${payroll} --what-if`)])
  } finally {
    for (const one of frozen) signal(one, 'SIGCONT')
  }
  await eventually(() => shard().state === 'open', 90_000)
  await connectAsGateway(payroll)
  expect(await rows()).toBe(101)
})

describe('in a new release', () => {
  test('a start is refused that could not bring every shard to it, and the release before has the way out', async () => {
    await start()
    await writeRows()
    await stopWithout(payroll)
    const release = await releaseWith(more)
    await expect(start({ release })).rejects.toMatchObject({
      code: 'upgrade_blocked',
      message: expect.stringContaining(`${payroll} cannot be upgraded: it does not come up: `) as unknown,
      hint: expect.stringContaining(
        `bring its primary back, with the data that it had; or, where release ${nameRelease(await packageRelease())} leaves out`,
      ) as unknown,
    })
    await start()
    await failover()
    await whole(2, 3, 4)
    await supervisor.close()
    await start({ release })
    expect([shard(), shard(treasury)]).toMatchObject([
      { state: 'open', epoch: 3 },
      { state: 'open', epoch: 2 },
    ])
    expect(await rows()).toBe(101)
  })

  test('also where that shard is the only one, and nobody but its followers can say so', async () => {
    const shards = { [payroll]: followed }
    await start({ shards })
    await stopWithout(payroll)
    const release = await releaseWith(more)
    await expect(start({ shards, release })).rejects.toMatchObject({ code: 'upgrade_blocked' })
    await start({ shards })
    await failover()
  })

  test('a shard that an upgrade did not reach stays closed until every shard is brought to it', async () => {
    const release = await releaseWith(more)
    await start()
    await writeRows()
    // As when a start was killed between the two.
    await install(treasury, release)
    const putBack = await stopWithout(payroll)
    await start({ release })
    expect(shard(treasury)).toMatchObject({ state: 'open', epoch: 2 })
    await expect(failover()).rejects.toMatchObject({ code: 'release_differs' })
    expect(shard()).toMatchObject({ state: 'fenced', epoch: 1 })
    await putBack()
    await eventually(() => alarms.some((alarm) => alarm.startsWith(`${payroll} stays closed: `)), 90_000)
    expect(alarms.at(-1)).toContain('start the fleet again')
    expect(shard().state).toBe('fenced')
    await expect(connectAsGateway(payroll)).rejects.toMatchObject({ sqlState: '28000' })
    // Refused, and taken back: not opened by that either.
    await expect(failover()).rejects.toMatchObject({ code: 'release_differs' })
    await expect(connectAsGateway(payroll)).rejects.toMatchObject({ sqlState: '28000' })
    expect(shard().state).toBe('fenced')
    await supervisor.close()
    await start({ release })
    expect(shard()).toMatchObject({ state: 'open', epoch: 2 })
    expect(await rows()).toBe(101)
    await whole(1, 2, 3)
  })

  test.each(['it comes back', 'it is failed over'])(
    'a shard that has it, at an epoch that the topology was not told of, is opened when %s',
    async (way) => {
      const release = await releaseWith(more)
      await start()
      await writeRows()
      for (const name of [payroll, treasury]) await install(name, release)
      await supervisor.shardServers.barrier(nodeOf(shard(), shard().primary), 30_000)
      const putBack = await stopWithout(payroll)
      await start({ release })
      if (way === 'it is failed over') await failover()
      else await putBack()
      await eventually(() => shard().state === 'open', 90_000)
      expect(shard().epoch).toBe(way === 'it is failed over' ? 3 : 2)
      expect(await rows()).toBe(101)
    },
  )

  test('also where it has no follower to ask', async () => {
    const release = await releaseWith(more)
    await start({ shards: { [payroll]: alone, [treasury]: alone } })
    for (const name of [payroll, treasury]) await install(name, release)
    const putBack = await stopWithout(payroll)
    await start({ shards: { [payroll]: alone, [treasury]: alone }, release })
    expect(alarms).toEqual([expect.stringContaining('restore it from its archive')])
    await putBack()
    await eventually(() => shard().state === 'open', 90_000)
    expect(shard().epoch).toBe(2)
  })

  test('also where the first of its followers is behind', async () => {
    const release = await releaseWith(more)
    await start()
    await writeRows()
    await supervisor.servers.stop(`${payroll}.2`, 'fast')
    for (const name of [payroll, treasury]) await install(name, release)
    await supervisor.shardServers.barrier(nodeOf(shard(), shard().primary), 30_000)
    await stopWithout(payroll)
    await start({ release })
    expect(shard()).toMatchObject({ state: 'fenced', epoch: 2 })
    expect((await failover()).promoted).toMatchObject({ node: `${payroll}.3`, epoch: 3 })
    expect(await rows()).toBe(101)
    await whole(2, 3, 4)
  })

  test('what is at an epoch that no cutover took is told of as such', async () => {
    await start()
    await ask('update holdfast.shard set epoch = epoch + 1')
    await expect(failover()).rejects.toMatchObject({
      code: 'shard_fenced',
      hint: expect.stringMatching(/^no cutover holds it: start the fleet again/) as unknown,
    })
    await supervisor.close()
    await start()
    expect((await failover()).promoted).toMatchObject({ epoch: 3 })
  })
})
