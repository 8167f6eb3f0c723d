import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FleetConfigInput } from 'holdfast'
import { parse } from 'yaml'

/** `holdfast.yaml` as it stands, with everything that a fleet of it writes moved below a folder, and no application. */
export async function configBelow(root: string): Promise<FleetConfigInput & { readonly dataDir: string }> {
  const application = fileURLToPath(new URL('..', import.meta.url))
  const written = parse(await readFile(join(application, 'holdfast.yaml'), 'utf8')) as FleetConfigInput
  const inApplication = (path: string | null | undefined) => (path == null ? path : join(application, path))
  const regions = Object.entries(written.regions).map(([name, region]) => [
    name,
    region.archive == null ? region : { ...region, archive: join(root, 'archive', name) },
  ])
  const domains = Object.entries(written.domains ?? {}).map(([name, domain]) => [
    name,
    { ...domain, schema: inApplication(domain.schema) },
  ])
  return {
    ...written,
    app: null,
    dataDir: join(root, 'data'),
    regions: Object.fromEntries(regions) as FleetConfigInput['regions'],
    domains: Object.fromEntries(domains) as NonNullable<FleetConfigInput['domains']>,
    invariants: inApplication(written.invariants),
  }
}
