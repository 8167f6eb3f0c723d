import { readFile, rm } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { configBelow } from '../../examples/payledger/demo/config.ts'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { present } from '../../src/base/assert.ts'
import type { Progress } from '../../src/base/progress.ts'
import { silentProgress } from '../../src/base/progress.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import type { DomainConfigInput, FleetConfigInput, PolicyInput } from '../../src/fleet/config.ts'
import type { EmbeddedFleet } from '../../src/fleet/fleet.ts'
import { quietRuntime, resolveConfig, startFleet } from '../../src/fleet/fleet.ts'
import { nodeOf } from '../../src/fleet/shard-servers.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { temporaryFolder } from '../support/fleet.ts'

/** A start under another configuration than the one that the fleet was founded with: taken up as a whole, or refused by key. */

const payroll = 'eu-west/payroll' as ShardName
const treasury = 'us-east/treasury'
const quorum = { durability: 'quorum', followers: ['eu-west', 'eu-central'], survive: 'region' } as const
const european: PolicyInput = { authority: ['eu-west', 'eu-central'], replicas: ['EU'], otherwise: 'read-only' }

let root: string
let founded: FleetConfigInput

beforeAll(async () => {
  root = await temporaryFolder()
  founded = { ...(await configBelow(root)), shards: { [payroll]: quorum, [treasury]: { durability: 'local' } } }
  await (await start(founded)).stop()
})

afterAll(() => rm(root, { recursive: true, force: true, maxRetries: 5 }))

async function start(input: FleetConfigInput, progress: Progress = silentProgress): Promise<EmbeddedFleet> {
  const { reference, config } = await resolveConfig({ config: input })
  return startFleet(reference, config, false, { ...quietRuntime, progress })
}

/** What the start says, and what it began before that. */
async function refusal(input: FleetConfigInput): Promise<{ readonly error: unknown; readonly steps: string[] }> {
  const steps: string[] = []
  const told = start(input, ({ step }) => void steps.push(step)).then(
    (fleet) => fleet.stop().then(() => 'it was taken up'),
    (error: unknown) => error,
  )
  return { error: await told, steps }
}

type Change = (config: FleetConfigInput) => Partial<FleetConfigInput>

const ofShard =
  (how: object): Change =>
  ({ shards }) => ({ shards: { ...shards, [payroll]: { ...quorum, ...how } } })
const ofTenant =
  (how: { readonly home?: string; readonly policy?: Partial<PolicyInput> }): Change =>
  ({ tenants }) => {
    const changed = { home: how.home ?? payroll, policy: { ...european, ...how.policy } }
    return { tenants: { ...tenants, 'globex-eu': changed } }
  }
const ofDomain =
  (name: string, how: object): Change =>
  ({ domains }) => ({
    domains: { ...domains, [name]: { ...present(domains?.[name], 'the domain'), ...how } as DomainConfigInput },
  })
const without = <T>(entries: Readonly<Record<string, T>> | null | undefined, name: string) =>
  Object.fromEntries(Object.entries(entries ?? {}).filter(([key]) => key !== name))
const american = { authority: ['us-east'], replicas: ['US'], otherwise: 'reject' } as const

test.each<[key: string, change: Change, message: string]>([
  ['the fleet', () => ({ fleet: 'ledger' }), 'fleet: is ledger, and the fleet on this data directory is payledger'],
  [
    'the jurisdiction of a region',
    ({ regions }) => ({ regions: { ...regions, 'eu-central': { jurisdiction: 'CH' } }, ...alsoSwiss(founded) }),
    'regions.eu-central.jurisdiction: is CH, and the fleet has EU',
  ],
  [
    'more followers',
    ofShard({ followers: ['eu-west', 'eu-central', 'eu-central'] }),
    'shards.eu-west/payroll.followers: is [eu-west, eu-central, eu-central], and beside eu-west the fleet has [eu-central, eu-west]',
  ],
  [
    'followers elsewhere',
    ofShard({ followers: ['eu-central', 'eu-central'] }),
    'shards.eu-west/payroll.followers: is [eu-central, eu-central], and beside eu-west the fleet has [eu-central, eu-west]',
  ],
  [
    'what is to be survived',
    ofShard({ survive: 'node' }),
    'shards.eu-west/payroll.survive: is node, and the shard was founded with region',
  ],
])('%s: refused before any server starts', async (_, change, message) => {
  const { error, steps } = await refusal({ ...founded, ...change(founded) })
  expect(error).toMatchObject({ code: 'config_invalid', message: `configuration: ${message}` })
  expect(error).toMatchObject({ hint: expect.stringContaining('or start on a new data directory') })
  expect(steps).toEqual([])
})

/** What keeps the rest of the configuration legal when eu-central is no part of the union. */
function alsoSwiss({ tenants }: FleetConfigInput): Partial<FleetConfigInput> {
  const swiss = Object.entries(tenants ?? {}).map(([name, tenant]) => [
    name,
    tenant.home === payroll ? { ...tenant, policy: { ...tenant.policy, replicas: ['EU', 'CH'] } } : tenant,
  ])
  return { tenants: Object.fromEntries(swiss) as NonNullable<FleetConfigInput['tenants']> }
}

test.each<[key: string, change: Change, message: string]>([
  [
    'a home, with the policy that is legal there',
    ofTenant({ home: treasury, policy: american }),
    'tenants.globex-eu.home: is us-east/treasury, and the fleet has it on eu-west/payroll',
  ],
  [
    'the order of a failover',
    ofTenant({ policy: { authority: ['eu-central', 'eu-west'] } }),
    'tenants.globex-eu.policy.authority: is [eu-central, eu-west], and the fleet has placed it under [eu-west, eu-central]',
  ],
  [
    'where replicas may be',
    ofTenant({ policy: { replicas: ['EU', 'US'] } }),
    'tenants.globex-eu.policy.replicas: is [EU, US], and the fleet has placed it under [EU]',
  ],
  [
    'what else a tenant gets',
    ofTenant({ policy: { otherwise: 'reject' } }),
    'tenants.globex-eu.policy.otherwise: is reject, and the fleet has placed it under read-only',
  ],
  [
    'a tenant less',
    ({ tenants }) => ({ tenants: without(tenants, 'globex-eu') }),
    'tenants.globex-eu: is missing, and the fleet has placed it',
  ],
  [
    'where a domain is pinned',
    ofDomain('treasury', { placement: payroll, policy: { ...european, otherwise: 'reject' } }),
    'domains.treasury.placement: is eu-west/payroll, and the fleet has it on us-east/treasury',
  ],
  [
    'the policy of a domain',
    ofDomain('treasury', { policy: { ...american, otherwise: 'read-only' } }),
    'domains.treasury.policy.otherwise: is read-only, and the fleet has placed it under reject',
  ],
  [
    'the source of reference data',
    ofDomain('tax', { source: payroll }),
    'domains.tax.source: is eu-west/payroll, and the fleet has it on us-east/treasury',
  ],
  [
    'a domain less',
    ({ domains }) => ({ domains: without(domains, 'finance') }),
    'domains.finance: is missing, and the fleet has placed it',
  ],
])('%s: refused before anybody is let in', async (_, change, message) => {
  const { error, steps } = await refusal({ ...founded, ...change(founded) })
  expect(error).toMatchObject({ code: 'config_invalid', message: `configuration: ${message}` })
  expect(steps.every((step) => step === 'start')).toBe(true)
  expect((await leftBehind(root)).filter((what) => what !== root)).toEqual([])
})

test('all that is different is told at once', async () => {
  const both: FleetConfigInput = { ...founded, ...ofShard({ survive: 'node' })(founded), fleet: 'ledger' }
  const { error } = await refusal(both)
  expect(error).toMatchObject({ message: expect.stringMatching(/^configuration: fleet: .*\nconfiguration: shards\./) })
})

test('a tenant and a domain more are taken up', async () => {
  const { tenants, domains } = founded
  founded = {
    ...founded,
    tenants: { ...tenants, 'hooli-eu': { home: payroll, policy: european } },
    domains: { ...domains, spare: { class: 'derived', at: treasury, from: { payroll: { payroll_runs: ['id'] } } } },
  }
  const fleet = await start(founded)
  const { supervisor } = fleet
  const shard = supervisor.topology.shard(payroll)
  const { rows } = await withConnection(supervisor.shardServers.adminTarget(nodeOf(shard, shard.primary)), (admin) =>
    admin.query(`select domain from holdfast.placement where tenant = 'hooli-eu' order by 1`),
  )
  await fleet.stop()
  expect(rows.map((row) => row['domain'])).toEqual(['finance', 'payroll', 'spare', 'tax', 'treasury'])
})

test('a region more is taken up, with a policy that names it and the links from it', async () => {
  const home: PolicyInput = { ...european, authority: ['eu-west', 'eu-north', 'eu-central'] }
  founded = {
    ...founded,
    // In front of the others, whose links have other paths then.
    regions: { 'eu-north': { jurisdiction: 'EU' }, ...founded.regions },
    tenants: { ...founded.tenants, 'tyrell-eu': { home: payroll, policy: home } },
  }
  const fleet = await start(founded)
  const { supervisor } = fleet
  const { document } = supervisor.topology
  const [node] = supervisor.topology.shard(payroll).nodes
  const { id, region, folder, links } = present(node, 'the shard has nodes')
  const laid = await supervisor.shardServers.place(id, region, folder)
  await fleet.stop()
  expect(document.regions).toMatchObject({ 'eu-north': 'EU', 'eu-west': 'EU', 'us-east': 'US' })
  expect(links).toEqual(laid.links)
  expect(Object.keys(links)).toContain('eu-north')
  const stored = JSON.parse(await readFile(supervisor.home.topologyFile, 'utf8')) as unknown
  expect(stored).toEqual(JSON.parse(JSON.stringify(document)))
  const { regions, tenants } = founded
  const { error } = await refusal({
    ...founded,
    regions: without(regions, 'eu-north'),
    tenants: without(tenants, 'tyrell-eu'),
  })
  expect(error).toMatchObject({
    message: expect.stringContaining('regions.eu-north: is missing, and the fleet has it'),
  })
})

test('a promotion changes none of it; who comes afterwards has to be legal where the primary is by then', async () => {
  const fleet = await start(founded)
  await fleet.call('failover', { shard: payroll, to: 'eu-central' }, silentProgress)
  // What it left is being built anew, or is about to be.
  await fleet.stop()
  await (await start(founded)).stop()
  const { error } = await refusal({
    ...founded,
    ...ofShard({ followers: ['eu-west', 'eu-west'], survive: 'node' })(founded),
  })
  expect(error).toMatchObject({ message: expect.stringContaining('shards.eu-west/payroll.followers') })

  const only = { home: payroll, policy: { ...european, authority: ['eu-west'] } }
  const late = await refusal({ ...founded, tenants: { ...founded.tenants, 'umbrella-eu': only } })
  expect(late.error).toMatchObject({
    code: 'config_invalid',
    message:
      'configuration: tenants.umbrella-eu.home: the primary of eu-west/payroll is in eu-central now, where the policy does not allow the authority',
  })
})
