import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Directory, Placement, PlacementService } from '../directory/directory.ts'
import { serviceOf, tenantHome } from '../directory/directory.ts'
import type { ShardName, ShardTopology } from '../directory/topology.ts'
import type { TransactionEnvironment } from './environment.ts'
import { shardOf } from './environment.ts'

/** What routing refuses before anything is sent. The shard checks all of it again beside the data. */

/** Any domain at home will do: they lie on one shard, and move together (P2). */
export function homePlacement({ directory }: TransactionEnvironment, tenant: string): Placement {
  const current = directory.current()
  const home = current.home(tenant)
  const domain = current.domains().find((entry) => entry.placement === tenantHome)
  return current.resolve(tenant, present(domain, `tenant ${tenant} has home ${home} by a domain at home`).name)
}

/** What of a tenant its statements may write on a shard: domain to version. */
export function writableOn(directory: Directory, tenant: string, shard: ShardName): ReadonlyMap<string, number> {
  const here = directory.placementsOf(tenant).filter((one) => one.shard === shard && one.service === 'full')
  return new Map(here.map(({ domain, version }) => [domain, version]))
}

/** The shard of a placement, open. A lost one has no legal primary, and each tenant gets what its policy says. */
export function openShard(environment: TransactionEnvironment, placement: Placement): ShardTopology {
  const name = placement.shard
  const shard = shardOf(environment, name)
  if (shard.state === 'open') return shard
  if (shard.state === 'lost') throw outOfService(placement, serviceOf(placement, 'lost'))
  throw new HoldfastError('shard_fenced', `shard ${name} is fenced at epoch ${shard.epoch}`, {
    hint: 'it is being promoted, restored or moved; try again',
    detail: { shard: name, epoch: shard.epoch },
  })
}

/** Only an outright rejection is known here; whether a statement writes, its shard decides (HF012). */
export function requireInService(placement: Placement): void {
  if (placement.service === 'reject') throw outOfService(placement, 'reject')
}

function outOfService({ tenant, domain, policyVersion }: Placement, service: PlacementService): HoldfastError {
  const what = `domain ${domain} of tenant ${tenant}`
  const options = { hint: 'no legal region can hold its authority now', detail: { tenant, domain, policyVersion } }
  return service === 'reject'
    ? new HoldfastError('tenant_rejected', `${what} is out of service`, options)
    : new HoldfastError('tenant_read_only', `${what} is read-only`, options)
}

export function requireDurable(shard: ShardTopology): void {
  if (shard.durability === 'quorum') return
  throw new HoldfastError('durability_insufficient', `shard ${shard.name} has local durability`, {
    hint: 'give it followers and the durability quorum, or keep the action on one shard',
    detail: { shard: shard.name },
  })
}
