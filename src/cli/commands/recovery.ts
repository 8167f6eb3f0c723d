import { type Command, Option } from 'commander'
import { HoldfastError } from '../../base/errors.ts'
import type {
  ArchiveReport,
  ArchiveVerdict,
  BackupReport,
  CutoverReport,
  DropReport,
  Gate,
  InvariantResult,
  RestoreReport,
} from '../../fleet/operations-api.ts'
import type { DrillReport } from '../../recovery/drill-report.ts'
import { optionsOf, withFleet } from '../attach.ts'
import { printLine, progressLine } from '../output.ts'
import { table } from '../table.ts'

/** `backup`, `archive`, `restore`, `drill`, `invariants`, `cutover`. */
export function addRecoveryCommands(program: Command): void {
  addArchiveCommands(program)
  addRestoreCommands(program)
}

function addArchiveCommands(program: Command): void {
  program
    .command('backup')
    .description('take base backups into the archives')
    .argument('[shard...]', 'of these shards; of all when left out')
    .action((shards: string[], _options: unknown, command: Command) =>
      withFleet(
        optionsOf(command),
        (fleet) => fleet.backup({ shards: shards.length === 0 ? undefined : shards, onProgress: progressLine }),
        showBackups,
      ),
    )
  const archive = program.command('archive').description('what is kept when every disk of a shard is gone')
  archive
    .command('status')
    .description('base backups, and how far a restore can go without a gap')
    .action((_options: unknown, command: Command) =>
      withFleet(optionsOf(command), (fleet) => fleet.archives(), showArchives),
    )
  archive
    .command('verify')
    .description('read every archive again and hold it against its checksums')
    .action((_options: unknown, command: Command) =>
      withFleet(
        optionsOf(command),
        (fleet) => fleet.verifyArchives(),
        showVerdicts,
        (verdicts) => verdicts.some(({ ok }) => !ok),
      ),
    )
}

function addRestoreCommands(program: Command): void {
  const restore = program
    .command('restore')
    .description('build an isolated environment as the fleet was at a target; changes nothing in the fleet')
    .option('--before <transaction>', 'up to just before this one: a transaction id, or shard@LSN')
    .option('--at <time>', 'a commit timestamp, a UTC time, or `end`')
    .option('--without <transaction...>', 'replay everything after the target except these, and what depends on them')
    .option('--dry-run', 'only say what would be left out')
    .addOption(new Option('--into <dir>').hideHelp())
    .action((_options: unknown, command: Command) => {
      const { before, at, without, dryRun, into, ...options } = optionsOf<{
        before?: string
        at?: string
        without?: string[]
        dryRun?: boolean
        into?: string
      }>(command)
      return withFleet(
        options,
        (fleet) => fleet.restore({ before, at, without, dryRun, into, onProgress: progressLine }),
        showRestore,
        ({ gates }) => gates.some(({ ok }) => !ok),
      )
    })
  restore
    .command('drop')
    .description('stop the servers of a restored environment and remove what it holds; its report stays')
    .argument('<environment>', 'its id, as restore gave it')
    .action((environment: string, _options: unknown, command: Command) =>
      withFleet(optionsOf(command), (fleet) => fleet.dropRestore(environment), showDropped),
    )
  addDrillCommands(program)
  program
    .command('invariants')
    .description('rules over the data')
    .command('check')
    .description('run them, over one snapshot of the fleet or on a restored environment')
    .argument('[name...]', 'these alone')
    .option('--env <id>', 'a restored environment')
    .action((names: string[], _options: unknown, command: Command) => {
      const { env: environment, ...options } = optionsOf<{ env?: string }>(command)
      return withFleet(
        options,
        (fleet) => fleet.invariants({ environment, names: names.length === 0 ? undefined : names }),
        showInvariants,
        (results) => results.some(({ violations }) => violations > 0),
      )
    })
  program
    .command('cutover')
    .description('make a restored environment the fleet')
    .argument('<environment>', 'its id, as restore gave it')
    .option('--abandon', 'give up one that was broken off before it switched, and open the fleet as it was')
    .option(
      '--accept-loss',
      'give up what is behind the target of an environment that ends there, or what the archive of a shard lacks that has no node left',
    )
    .action((environment: string, _options: unknown, command: Command) => {
      const { abandon, acceptLoss, ...options } = optionsOf<{ abandon?: boolean; acceptLoss?: boolean }>(command)
      const onProgress = progressLine
      return abandon === true
        ? withFleet(options, (fleet) => fleet.abandonCutover(environment), showAbandoned)
        : withFleet(options, (fleet) => fleet.cutover({ environment, acceptLoss, onProgress }), showCutover)
    })
}

function showAbandoned({ environment }: { readonly environment: string }): void {
  printLine(`the cutover to ${environment} is given up; the fleet is open as it was`)
}

function addDrillCommands(program: Command): void {
  const drill = program
    .command('drill')
    .description('rehearsed restores, and the reports that all of them leave behind')
  drill
    .command('run')
    .description('rebuild the fleet from its archives, check it and remove it again; the report stays')
    .option('--at <time>', 'as of restore; without it the target of the configuration, or `end`')
    .action((_options: unknown, command: Command) => {
      const { at, ...options } = optionsOf<{ at?: string }>(command)
      return withFleet(
        options,
        (fleet) => fleet.drill({ at, onProgress: progressLine }),
        showDrill,
        ({ verdict }) => verdict === 'failed',
      )
    })
  drill
    .command('list')
    .description('every report, oldest first')
    .action((_options: unknown, command: Command) =>
      withFleet(optionsOf(command), (fleet) => fleet.drills(), showDrills),
    )
  drill
    .command('show')
    .description('one report with its gates and checks')
    .argument('<id>', 'the id of its environment')
    .action((id: string, _options: unknown, command: Command) =>
      withFleet(optionsOf(command), async (fleet) => drillOf(await fleet.drills(), id), showDrill),
    )
}

function drillOf(reports: readonly DrillReport[], id: string): DrillReport {
  const found = reports.find((report) => report.id === id)
  if (found !== undefined) return found
  throw new HoldfastError('unknown_environment', `no report of ${JSON.stringify(id)}`, {
    hint: reports.length === 0 ? 'holdfast restore leaves one' : `there are ${reports.map((one) => one.id).join(', ')}`,
  })
}

function showBackups(reports: readonly BackupReport[]): void {
  printLine(
    table(
      ['shard', 'backup', 'region', 'from', 'to', 'bytes', 'ms'],
      reports.map(({ shard, backupId, region, startLsn, endLsn, bytes, durationMs }) => [
        shard,
        backupId,
        region,
        startLsn,
        endLsn,
        String(bytes),
        String(durationMs),
      ]),
    ),
  )
}

function showArchives(archives: readonly ArchiveReport[]): void {
  for (const { shard, region, baseBackups, restorable, gaps, redo } of archives) {
    printLine(`${shard} in ${region}`)
    for (const { backupId, startLsn, endLsn, bytes } of baseBackups) {
      printLine(`  backup ${backupId} from ${startLsn} to ${endLsn}, ${bytes} bytes`)
    }
    if (restorable === null) printLine('  not restorable')
    else printLine(`  restorable from ${restorable.from} through ${restorable.through}`)
    for (const { from, to } of gaps) printLine(`  the log from ${from} to ${to} is missing`)
    if (redo !== null) printLine(`  redo from ${redo.from} through ${redo.through}, closed at ${redo.closedTimestamp}`)
  }
}

function showVerdicts(verdicts: readonly ArchiveVerdict[]): void {
  for (const { shard, region, ok, problems, baseBackups, walSegments, redoTransactions, bytes } of verdicts) {
    const held = `${baseBackups} base backups, ${walSegments} segments, ${redoTransactions} transactions, ${bytes} bytes`
    printLine(`${ok ? 'ok  ' : 'FAIL'} ${shard} in ${region}: ${held}`)
    for (const problem of problems) printLine(`     ${problem}`)
  }
}

function showRestore(restored: RestoreReport): void {
  printLine(restored.environment === null ? 'dry run' : `environment ${restored.environment}, ${restored.rtoMs} ms`)
  for (const { name, reason } of restored.excluded) printLine(`without   ${name}: ${reason}`)
  for (const name of restored.review) printLine(`review    ${name}`)
  for (const conflict of restored.conflicts) printLine(`conflict  ${conflict}`)
  showGates(restored.gates)
}

function showDropped({ environment, stopped, removed }: DropReport): void {
  for (const server of stopped) printLine(`stopped   ${server}`)
  for (const folder of removed) printLine(`removed   ${folder}`)
  printLine(`environment ${environment} is gone`)
}

function showGates(gates: readonly Gate[]): void {
  for (const { name, ok, durationMs, detail } of gates) {
    printLine(`${ok ? 'ok  ' : 'FAIL'} ${name}, ${durationMs} ms: ${detail}`)
  }
}

function showDrills(reports: readonly DrillReport[]): void {
  printLine(
    table(
      ['id', 'taken at', 'verdict', 'rto ms', 'rpo ms', 'target'],
      reports.map(({ id, takenAt, verdict, rtoMs, rpoMs, target }) => [
        id,
        takenAt,
        verdict,
        String(rtoMs),
        String(rpoMs),
        target,
      ]),
    ),
  )
}

function showDrill({ id, verdict, target, gates, checks }: DrillReport): void {
  printLine(`${id}: ${verdict}, ${target}`)
  showGates(gates)
  for (const [group, held] of Object.entries(checks)) {
    for (const { name, ok, detail } of held) printLine(`${ok ? 'ok  ' : 'FAIL'} ${group}: ${name}: ${detail}`)
  }
}

function showInvariants(results: readonly InvariantResult[]): void {
  printLine(
    table(
      ['invariant', 'severity', 'violations'],
      results.map(({ name, severity, violations }) => [name, severity, String(violations)]),
    ),
  )
}

function showCutover({ shards, leftOut, compensations, gates }: CutoverReport): void {
  for (const { shard, epoch, historyId } of shards) printLine(`${shard}: epoch ${epoch}, history ${historyId}`)
  for (const id of leftOut) printLine(`left out    ${id}`)
  for (const { eventId, name } of compensations) printLine(`compensate  ${eventId} ${name}`)
  showGates(gates)
}
