import { expect, test } from 'vitest'
import { Directory, initialPlacements } from '../../src/directory/directory.ts'
import type { TenantEntry } from '../../src/directory/directory.ts'
import type { Jurisdiction, NodeId, RegionName, TenantName } from '../../src/directory/topology.ts'
import { read } from '../../src/reading/reading.ts'
import { treasuryShard } from '../support/payroll-plan.ts'
import { useReadingShards } from '../support/reading-fixture.ts'

/** Whom the law lets answer. A shard in us-east with a follower abroad, in the reader's own region. */

const abroad = 'us-east/treasury.3' as NodeId
/** Its runs may be read in Europe. Its holds are on the same shard, and may not. */
const initech: TenantEntry = {
  name: 'initech-us' as TenantName,
  home: treasuryShard,
  policy: {
    authority: ['us-east'] as RegionName[],
    replicas: ['US', 'EU'] as Jurisdiction[],
    otherwise: 'reject',
  },
}

const fixture = useReadingShards([{ name: treasuryShard, followers: ['us-east', 'eu-west'] }], {}, [initech])

/** One snapshot answers for both. */
async function answeredBy({ reading } = fixture.gateway): Promise<NodeId[]> {
  const answer = await read(reading, { tenant: initech.name, prefer: abroad }, async (reader) => {
    await reader.query('payroll', 'select id from runs')
    await reader.query('treasury', 'select run from holds')
  })
  return answer.served.map(({ node }) => node)
}

test('R3: a follower answers for no domain where the policy of another that the tenant has on the shard forbids it', async () => {
  const [node, ...others] = await answeredBy()
  expect(node).toMatch(/^us-east\/treasury\.[12]$/)
  expect(others).toEqual([])
})

test('R3: it answers where every policy allows it', async () => {
  const replicas = ['US', 'EU'] as Jurisdiction[]
  const domains = fixture.shards.plan.domains.map((domain) =>
    domain.policy === null ? domain : { ...domain, policy: { ...domain.policy, replicas } },
  )
  const directory = Directory.of(domains, initialPlacements(domains, fixture.shards.plan.tenants))
  const source = { current: () => directory, refresh: () => Promise.resolve(directory) }
  expect(await answeredBy(await fixture.open({ parts: { directory: source } }))).toEqual([abroad])
})
