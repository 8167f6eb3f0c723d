import type { Command } from 'commander'
import { HoldfastError } from '../../base/errors.ts'
import type { FailoverReport, TenantView } from '../../fleet/operations-api.ts'
import { optionsOf, withFleet } from '../attach.ts'
import { printLine, progressLine } from '../output.ts'
import { table } from '../table.ts'

/** `tenant`, `failover`: who may be where, and who is. */
export function addDirectoryCommands(program: Command): void {
  const tenant = program.command('tenant').description('the directory')
  tenant
    .command('list')
    .description('every tenant with its placements and policies')
    .action((_options: unknown, command: Command) =>
      withFleet(optionsOf(command), (fleet) => fleet.tenants(), showTenants),
    )
  tenant
    .command('show')
    .description('one tenant with its placements and policies')
    .argument('<tenant>', 'its name')
    .action((name: string, _options: unknown, command: Command) =>
      withFleet(
        optionsOf(command),
        async (fleet) => tenantOf(await fleet.tenants(), name),
        (view) => showTenants([view]),
      ),
    )
  program
    .command('failover')
    .description('promote a legal follower')
    .argument('<shard>', 'e.g. eu-west/payroll')
    .option('--to <target>', 'the region that takes over; the best legal one when left out')
    .option('--what-if', 'only say what is legal and what is not, with the reasons')
    .action((shard: string, _options: unknown, command: Command) => {
      const { to, whatIf, ...options } = optionsOf<{ to?: string; whatIf?: boolean }>(command)
      return withFleet(
        options,
        (fleet) => fleet.failover({ shard, to, whatIf, onProgress: progressLine }),
        showFailover,
      )
    })
}

function tenantOf(views: readonly TenantView[], name: string): TenantView {
  const found = views.find(({ tenant }) => tenant === name)
  if (found !== undefined) return found
  throw new HoldfastError('unknown_tenant', `no tenant ${JSON.stringify(name)}`, {
    hint: `known are ${views.map(({ tenant }) => tenant).join(', ') || 'none'}`,
  })
}

function showTenants(views: readonly TenantView[]): void {
  printLine(
    table(
      ['tenant', 'domain', 'shard', 'version', 'service', 'authority', 'replicas'],
      views.flatMap(({ tenant, placements }) =>
        placements.map(({ domain, shard, version, service, policy }) => [
          tenant,
          domain,
          shard,
          String(version),
          service,
          policy?.authority.join(' ') ?? 'anywhere',
          policy?.replicas.join(' ') ?? 'anywhere',
        ]),
      ),
    ),
  )
}

function showFailover({ shard, promoted, options, durationMs }: FailoverReport): void {
  if (promoted !== null) {
    const { node, region, epoch } = promoted
    printLine(`${shard}: ${node} in ${region} is primary at epoch ${epoch}, after ${durationMs} ms`)
  }
  for (const { region, followers } of options.legal) printLine(`legal    ${region}: ${followers.join(', ')}`)
  for (const { region, reasons } of options.refused) printLine(`refused  ${region}: ${reasons.join('; ')}`)
}
