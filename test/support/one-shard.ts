import { configBelow } from '../../examples/payledger/demo/config.ts'
import { present } from '../../src/base/assert.ts'
import type { FleetConfigInput, ShardConfigInput } from '../../src/fleet/config.ts'

export const shard = 'eu-west/payroll'
export const tenant = 'globex-eu'

/** PayLedger's payroll alone, below a folder: one shard is enough to own servers, followers, links and gateways. */
export async function oneShard(root: string, how: ShardConfigInput): Promise<FleetConfigInput> {
  const { domains, tenants, ...config } = await configBelow(root)
  const one = {
    shards: { [shard]: how },
    domains: { payroll: present(domains?.['payroll'], 'the domain') },
    tenants: { [tenant]: present(tenants?.[tenant], 'the tenant') },
    invariants: null,
  }
  return { ...config, ...one, listen: '127.0.0.1:0' }
}
