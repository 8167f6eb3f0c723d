import type { Command } from 'commander'
import { HoldfastError } from '../../base/errors.ts'
import type {
  BackupReport,
  CutoverReport,
  FailoverReport,
  InvariantResult,
  RestoreReport,
  TenantView,
} from '../../fleet/operations-api.ts'
import type { CommonOptions } from '../attach.ts'
import { withFleet } from '../attach.ts'
import { printLine, progressLine } from '../output.ts'
import { table } from '../table.ts'

/** `tenant`, `failover`, `backup`, `restore`, `invariants`, `cutover`. */
export function addOperationCommands(program: Command): void {
  addDirectoryCommands(program)
  addRecoveryCommands(program)
}

function addDirectoryCommands(program: Command): void {
  const tenant = program.command('tenant').description('the directory')
  tenant
    .command('list')
    .action((_options: unknown, command: Command) =>
      withFleet(command.optsWithGlobals<CommonOptions>(), (fleet) => fleet.tenants(), showTenants),
    )
  tenant
    .command('show')
    .argument('<tenant>')
    .action((name: string, _options: unknown, command: Command) =>
      withFleet(
        command.optsWithGlobals<CommonOptions>(),
        async (fleet) => {
          const found = (await fleet.tenants()).find((view) => view.tenant === name)
          if (found === undefined) throw new HoldfastError('unknown_tenant', `no tenant ${JSON.stringify(name)}`)
          return found
        },
        (view) => showTenants([view]),
      ),
    )
  program
    .command('failover')
    .description('promote a legal follower')
    .argument('<shard>')
    .option('--to <target>', 'the region that takes over')
    .option('--what-if', 'only say what is legal')
    .action((shard: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { to?: string; whatIf?: boolean }>()
      const { to, whatIf } = options
      return withFleet(
        options,
        (fleet) => fleet.failover({ shard, to, whatIf, onProgress: progressLine }),
        showFailover,
      )
    })
}

function addRecoveryCommands(program: Command): void {
  program
    .command('backup')
    .description('take base backups into the archives')
    .argument('[shard...]')
    .action((shards: string[], _options: unknown, command: Command) =>
      withFleet(
        command.optsWithGlobals<CommonOptions>(),
        (fleet) => fleet.backup({ shards: shards.length === 0 ? undefined : shards, onProgress: progressLine }),
        showBackups,
      ),
    )
  program
    .command('restore')
    .description('build an isolated environment as of a target')
    .option('--before <transaction>', 'up to just before this one')
    .option('--at <time>', 'a commit timestamp or a UTC time')
    .option('--without <transaction...>', 'replay everything after the target except these')
    .option('--dry-run', 'only say what would be left out')
    .action((_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<
        CommonOptions & { before?: string; at?: string; without?: string[]; dryRun?: boolean }
      >()
      const { before, at, without, dryRun } = options
      return withFleet(
        options,
        (fleet) => fleet.restore({ before, at, without, dryRun, onProgress: progressLine }),
        showRestore,
      )
    })
  const invariants = program.command('invariants').description('rules over the data')
  invariants
    .command('check')
    .argument('[name...]')
    .option('--env <id>', 'a restored environment')
    .action((names: string[], _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { env?: string }>()
      const request = { environment: options.env, names: names.length === 0 ? undefined : names }
      return withFleet(
        options,
        (fleet) => fleet.invariants(request),
        showInvariants,
        (results) => results.some(({ violations }) => violations > 0),
      )
    })
  program
    .command('cutover')
    .description('make a restored environment authoritative')
    .argument('<environment>')
    .action((environment: string, _options: unknown, command: Command) =>
      withFleet(
        command.optsWithGlobals<CommonOptions>(),
        (fleet) => fleet.cutover({ environment, onProgress: progressLine }),
        showCutover,
      ),
    )
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

function showFailover({ shard, promoted, options }: FailoverReport): void {
  if (promoted !== null)
    printLine(`${shard}: ${promoted.node} in ${promoted.region} is primary at epoch ${promoted.epoch}`)
  for (const { region, followers } of options.legal) printLine(`legal    ${region}: ${followers.join(', ')}`)
  for (const { region, reasons } of options.refused) printLine(`refused  ${region}: ${reasons.join('; ')}`)
}

function showBackups(reports: readonly BackupReport[]): void {
  printLine(
    table(
      ['shard', 'backup', 'region', 'from', 'to', 'bytes', 'ms'],
      reports.map((one) => [
        one.shard,
        one.backupId,
        one.region,
        one.startLsn,
        one.endLsn,
        String(one.bytes),
        String(one.durationMs),
      ]),
    ),
  )
}

function showRestore(restored: RestoreReport): void {
  printLine(restored.environment === null ? 'dry run' : `environment ${restored.environment}, ${restored.rtoMs} ms`)
  for (const { name, reason } of restored.excluded) printLine(`without   ${name}: ${reason}`)
  for (const name of restored.review) printLine(`review    ${name}`)
  for (const conflict of restored.conflicts) printLine(`conflict  ${conflict}`)
  for (const { name, ok, durationMs, detail } of restored.gates)
    printLine(`${ok ? 'ok  ' : 'FAIL'} ${name} ${durationMs} ms ${detail}`)
}

function showInvariants(results: readonly InvariantResult[]): void {
  printLine(
    table(
      ['invariant', 'severity', 'violations'],
      results.map(({ name, severity, violations }) => [name, severity, String(violations)]),
    ),
  )
}

function showCutover(cutover: CutoverReport): void {
  for (const { shard, epoch, historyId } of cutover.shards) printLine(`${shard} epoch ${epoch} history ${historyId}`)
  for (const id of cutover.leftOut) printLine(`left out    ${id}`)
  for (const { eventId, name } of cutover.compensations) printLine(`compensate  ${eventId} ${name}`)
}
