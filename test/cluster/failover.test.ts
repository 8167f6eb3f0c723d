import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { FleetConfigInput } from '../../src/fleet/config.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Faults } from '../../src/testing.ts'
import { lives, readPidFile } from '../../src/postgres/server/processes.ts'
import { eventually } from '../support/eventually.ts'
import { TestFleet } from '../support/fleet.ts'

/** Promotion of an embedded shard: under law, without loss, and with a history of its own. */

const payroll = 'eu-west/payroll'
/** Its tenants may be served from eu-central alone, and its followers are elsewhere. */
const benefits = 'eu-central/benefits'
const tenant = 'globex-eu'

let fleet: TestFleet
let gateway: Gateway
let faults: Faults

function adapt({ domains, ...config }: FleetConfigInput): FleetConfigInput {
  const { payroll: domain } = domains ?? {}
  const homebound = { authority: ['eu-central'], replicas: ['EU'] }
  return {
    ...config,
    invariants: null,
    shards: {
      [payroll]: { durability: 'quorum', followers: ['eu-west', 'eu-central'], survive: 'region' },
      [benefits]: { durability: 'quorum', followers: ['eu-west', 'eu-west'] },
    },
    domains: domain === undefined ? {} : { payroll: domain },
    tenants: {
      [tenant]: {
        home: payroll,
        policy: { authority: ['eu-west', 'eu-central'], replicas: ['EU'], otherwise: 'reject' },
      },
      'read-only-eu': { home: benefits, policy: { ...homebound, otherwise: 'read-only' } },
      'reject-eu': { home: benefits, policy: { ...homebound, otherwise: 'reject' } },
    },
  }
}

beforeAll(async () => {
  fleet = await TestFleet.open({ adapt })
  gateway = await fleet.gateway('eu-west')
  faults = fleet.faults(gateway)
})

afterAll(() => fleet?.close())

const write = (at: string, run: string) =>
  gateway.transact({ tenant: at, action: 'payroll.draft', subject: run, actor: 'test' }, (tx) =>
    tx.query('payroll', `insert into payroll_runs (tenant, id, status, total_cents) values ($1, $2, 'draft', 1)`, [
      at,
      run,
    ]),
  )

const document = (shard: string) => {
  const found = Object.entries(fleet.supervisor.topology.document.shards).find(([name]) => name === shard)?.[1]
  if (found === undefined) throw new Error(`no shard ${shard}`)
  return found
}

/** How many commits of the payroll's primary wait for a follower. */
const waitingForFollowers = async (): Promise<number> => {
  const rows = await fleet.ask(payroll, `select from pg_stat_activity where wait_event = 'SyncRep'`)
  return rows.length
}

const kept = async (shard: string): Promise<string[]> => {
  const rows = await fleet.ask<{ transaction_id: string }>(shard, 'select transaction_id from holdfast.commit_log')
  return rows.map((row) => row.transaction_id)
}

const refusals = async (): Promise<Record<string, unknown>[]> => {
  const text = await readFile(join(fleet.supervisor.home.journalDir, 'refusals.jsonl'), 'utf8')
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
}

describe('V1: a target that the law forbids', () => {
  test('is refused with the policy and its version, recorded, and nothing is touched', async () => {
    const before = document(payroll)
    const refused = gateway.failover({ shard: payroll, to: 'us-east' })
    const reasons = [
      'policy version 1 of tenant globex-eu, domain payroll forbids the authority in us-east; it allows eu-west, eu-central',
    ]
    await expect(refused).rejects.toMatchObject({ code: 'residency_denied', detail: { shard: payroll, reasons } })
    expect(document(payroll)).toEqual(before)
    expect((await refusals()).at(-1)).toMatchObject({ operation: 'failover', shard: payroll, reasons })
    await write(tenant, 'after-the-refusal')
  })

  test('is told by what-if, beside what would be legal, and nothing is recorded', async () => {
    const recorded = (await refusals()).length
    const { promoted, options } = await gateway.failover({ shard: payroll, whatIf: true })
    expect(promoted).toBeNull()
    expect(options.legal.map(({ region }) => region)).toEqual(['eu-west', 'eu-central'])
    expect(options.refused).toMatchObject([{ region: 'us-east', followers: [] }])
    expect((await refusals()).length).toBe(recorded)
  })

  test('a shard and a region that nobody knows are refused', async () => {
    await expect(gateway.failover({ shard: 'eu-west/nothing' })).rejects.toMatchObject({ code: 'unknown_shard' })
    await expect(gateway.failover({ shard: payroll, to: 'mars' })).rejects.toMatchObject({ name: 'HoldfastError' })
  })
})

describe('a promotion after the region of the primary was lost', () => {
  const acknowledged: string[] = []
  let old: ReturnType<typeof document>

  beforeAll(async () => {
    old = document(payroll)
    let n = 0
    let stopped = false
    // Writers go on while their primary dies: what they were told counts, nothing else.
    const writers = Array.from({ length: 4 }, async () => {
      while (!stopped) {
        n += 1
        await write(tenant, `run-${n}`).then(
          ({ transactionId }) => acknowledged.push(transactionId),
          () => undefined,
        )
      }
    })
    await eventually(() => acknowledged.length >= 50)
    // What the primary takes from now on reaches nobody: it may not be acknowledged.
    await faults.cutLink('eu-west', 'eu-central')
    const beforeCut = acknowledged.length
    await eventually(
      async () => (await waitingForFollowers()) === writers.length || acknowledged.length > beforeCut + 20,
    )
    for (const { id, region } of old.nodes) if (region === 'eu-west') await faults.killNode(id)
    const failover = gateway.failover({
      shard: payroll,
      // Healed before, the link would still deliver what it held.
      onProgress: ({ step }) => void (step === 'promote' && faults.healLink('eu-west', 'eu-central')),
    })
    await failover.finally(() => {
      stopped = true
    })
    await Promise.all(writers)
  })

  test('V3: keeps every acknowledged commit', async () => {
    const log = new Set(await kept(payroll))
    expect(acknowledged.length).toBeGreaterThanOrEqual(50)
    expect(acknowledged.filter((id) => !log.has(id))).toEqual([])
  })

  test('V4: HZ-T2: opens a history of its own at the next epoch, with where it forked', async () => {
    const next = document(payroll)
    expect(next).toMatchObject({ epoch: old.epoch + 1, state: 'open' })
    expect(next.historyId).not.toBe(old.historyId)
    const rows = await fleet.ask<{ history_id: string; epoch: number; fork_lsn: string | null }>(
      payroll,
      'select history_id, epoch, fork_lsn::text from holdfast.history order by epoch',
    )
    expect(rows.map(({ history_id, epoch }) => [history_id, epoch])).toEqual([
      [old.historyId, old.epoch],
      [next.historyId, next.epoch],
    ])
    expect(rows[1]?.fork_lsn).toMatch(/^[0-9A-F]+\/[0-9A-F]+$/)
  })

  test('V5: HZ-F2: the old nodes are gone, others take their places, and whoever still has its epoch is refused', async () => {
    // Only one follower was left, and it is the primary: the first place is filled before the shard opens, the other behind it.
    await eventually(() => fleet.nodesOf(payroll).length === 3)
    expect(fleet.nodesOf(payroll)).toEqual([`${payroll}.3`, `${payroll}.4`, `${payroll}.5`])
    expect(document(payroll).retired).toEqual([])
    await eventually(async () => {
      const [row] = await fleet.ask<{ names: string }>(
        payroll,
        `select current_setting('synchronous_standby_names') as names`,
      )
      return row?.names === `ANY 1 ("${payroll}.4", "${payroll}.5")`
    })
    expect(fleet.primary(payroll).region).toBe('eu-central')
    for (const gone of [`${payroll}.1`, `${payroll}.2`]) expect(fleet.supervisor.servers.isRunning(gone)).toBe(false)
    const late = fleet.ask(payroll, 'select holdfast.shard_at_epoch($1)', [old.epoch])
    await expect(late).rejects.toMatchObject({ sqlState: 'HF006' })
  })

  test('writes and followers go on under the new primary', async () => {
    const { transactionId } = await write(tenant, 'on-the-new-primary')
    for (const id of fleet.nodesOf(payroll)) {
      await eventually(async () => {
        const rows = await fleet.askNode(id, 'select from holdfast.commit_log where transaction_id = $1', [
          transactionId,
        ])
        return rows.length === 1
      })
    }
  })
})

describe('a promotion that too few followers answer', () => {
  test('V2: does not happen, and the primary that was running goes on', async () => {
    const before = document(payroll)
    const [follower] = before.nodes.filter(({ id }) => id !== before.primary)
    if (follower === undefined) throw new Error('no follower')
    await faults.killNode(follower.id)
    const unsafe = gateway.failover({ shard: payroll, to: 'eu-west' })
    await expect(unsafe).rejects.toMatchObject({
      code: 'node_unavailable',
      message: expect.stringContaining('no promotion is safe') as unknown,
    })
    expect(document(payroll)).toEqual(before)
    await write(tenant, 'after-the-unsafe-promotion')
    await faults.restartNode(follower.id)
  })

  test('with all of them it does, as often as it is asked for: V4: HZ-T2: each has a history of its own', async () => {
    const before = document(payroll)
    await gateway.failover({ shard: payroll, to: 'eu-west' })
    const histories = await fleet.ask<{ history_id: string; parent: string | null }>(
      payroll,
      'select history_id, parent from holdfast.history order by epoch',
    )
    expect(new Set(histories.map(({ history_id }) => history_id)).size).toBe(3)
    expect(histories[2]?.parent).toBe(before.historyId)
    await write(tenant, 'back-in-eu-west')
  })
})

test('`survive: region`: without the only follower of another region writes wait, status says so, and they go on when it is back', async () => {
  const { primary, nodes } = document(payroll)
  const [away] = nodes.filter(({ region }) => region === 'eu-central')
  if (away === undefined || away.id === primary) throw new Error('the primary is in eu-west')
  const acknowledging = async () =>
    (await gateway.status()).shards.find(({ shard }) => shard === payroll)?.acknowledging
  await eventually(async () => (await acknowledging()) === 1)
  await faults.killNode(away.id)
  await eventually(async () => (await acknowledging()) === 0)
  const waiting = write(tenant, 'while-nobody-is-away')
  await eventually(async () => (await waitingForFollowers()) === 1)
  await faults.restartNode(away.id)
  const { transactionId } = await waiting
  expect(await kept(payroll)).toContain(transactionId)
})

describe('a shard whose primary is gone and that no legal region can take', () => {
  let lost: ReturnType<typeof document>

  beforeAll(async () => {
    await write('read-only-eu', 'before')
    await write('reject-eu', 'before')
    await faults.killNode(document(benefits).primary)
    await expect(gateway.failover({ shard: benefits })).rejects.toMatchObject({ code: 'residency_denied' })
    lost = document(benefits)
  })

  test('is lost, and stays where it was', () => {
    expect(lost).toMatchObject({ state: 'lost', epoch: 1 })
  })

  test('a read-only tenant reads from its follower and is refused its writes', async () => {
    const { value, served } = await gateway.read({ tenant: 'read-only-eu' }, (read) =>
      read.query('payroll', 'select id from payroll_runs'),
    )
    expect(value.rows).toEqual([{ id: 'before' }])
    expect(served).toMatchObject([{ role: 'follower', region: 'eu-west' }])
    await expect(write('read-only-eu', 'now')).rejects.toMatchObject({ code: 'tenant_read_only' })
  })

  test('a tenant that would rather be rejected is', async () => {
    const read = gateway.read({ tenant: 'reject-eu' }, (reader) =>
      reader.query('payroll', 'select id from payroll_runs'),
    )
    await expect(read).rejects.toMatchObject({ code: 'tenant_rejected' })
    await expect(write('reject-eu', 'now')).rejects.toMatchObject({ code: 'tenant_rejected' })
  })

  test('is served again once its primary is back', async () => {
    await faults.restartNode(lost.primary)
    await eventually(() => document(benefits).state === 'open')
    await write('reject-eu', 'back')
  })
})

test('no server of an old primary runs', async () => {
  const running = new Set(
    Object.values(fleet.supervisor.topology.document.shards).flatMap(({ nodes }) => nodes.map(({ folder }) => folder)),
  )
  for (const folder of ['eu-west~payroll.1', 'eu-west~payroll.2', 'eu-west~payroll.3']) {
    expect(running.has(folder)).toBe(false)
    const pid = (await readPidFile(fleet.supervisor.servers.dataDirOf(folder)))?.pid
    expect(pid === undefined || !(await lives(pid))).toBe(true)
  }
})
