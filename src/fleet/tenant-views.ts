import type { Directory } from '../directory/directory.ts'
import type { TenantView } from './operations-api.ts'

/** The directory as operators see it, by tenant. */
export function tenantViews(directory: Directory): TenantView[] {
  return directory.tenants().map((tenant) => ({
    tenant,
    home: directory.home(tenant),
    placements: directory
      .placements()
      .filter((placement) => placement.tenant === tenant)
      .map(({ domain, shard, version, service, policyVersion, policy }) => ({
        domain,
        shard,
        version,
        service,
        policyVersion,
        policy,
      })),
  }))
}
