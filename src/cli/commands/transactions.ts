import type { Command } from 'commander'
import { formatHlc, parseHlc } from '../../hlc/hlc.ts'
import type { Evidence } from '../../evidence/evidence.ts'
import type { TimelineEntry } from '../../evidence/timeline.ts'
import type { TransactionView } from '../../evidence/transaction-view.ts'
import type { CommonOptions } from '../attach.ts'
import { withFleet } from '../attach.ts'
import { printLine } from '../output.ts'
import { table } from '../table.ts'
import { isReading } from '../statement-kind.ts'

interface SqlOptions extends CommonOptions {
  readonly tenant: string
  readonly domain: string
  readonly actor: string
  readonly action: string
  readonly subject: string
}

/** `sql`, `txn`, `timeline`, `resolve`, `prove`. */
export function addTransactionCommands(program: Command): void {
  program
    .command('sql')
    .description('run one statement through a Holdfast transaction; a reading one reads')
    .requiredOption('--tenant <tenant>')
    .requiredOption('--domain <domain>')
    .option('--actor <actor>', 'who does it', 'operator')
    .option('--action <action>', 'what is done', 'sql')
    .option('--subject <subject>', 'what it is done to', '')
    .argument('<statement>')
    .action((statement: string, _options: unknown, command: Command) =>
      sql(command.optsWithGlobals<SqlOptions>(), statement),
    )
  program
    .command('txn')
    .description('one transaction with its record and branches')
    .argument('<id>')
    .action((id: string, _options: unknown, command: Command) =>
      withFleet(command.optsWithGlobals<CommonOptions>(), (fleet) => fleet.transaction(id), showTransaction),
    )
  program
    .command('timeline')
    .description('the committed history of all shards, merged by commit timestamp')
    .option('--tenant <tenant>')
    .option('--since <timestamp>')
    .option('--until <timestamp>')
    .action((_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { tenant?: string; since?: string; until?: string }>()
      return withFleet(
        options,
        (fleet) =>
          collect(
            fleet.timeline({
              tenant: options.tenant,
              since: options.since === undefined ? undefined : parseHlc(options.since),
              until: options.until === undefined ? undefined : parseHlc(options.until),
            }),
          ),
        showTimeline,
      )
    })
  program
    .command('resolve')
    .description('settle what is in doubt, through its record')
    .option('--dry-run', 'only explain')
    .action((_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { dryRun?: boolean }>()
      return withFleet(
        options,
        (fleet) => fleet.resolve(options.dryRun === true),
        (found) => printLine(found.length === 0 ? 'nothing is in doubt' : JSON.stringify(found, null, 2)),
      )
    })
  program
    .command('prove')
    .description('the evidence of one transaction')
    .argument('<id>')
    .action((id: string, _options: unknown, command: Command) =>
      withFleet(command.optsWithGlobals<CommonOptions>(), (fleet) => fleet.prove(id), showEvidence),
    )
}

function sql(options: SqlOptions, statement: string): Promise<void> {
  const { tenant, domain, actor, action, subject } = options
  if (isReading(statement)) {
    return withFleet(
      options,
      (fleet) => fleet.read({ tenant, level: 'primary' }, async (read) => (await read.query(domain, statement)).rows),
      ({ value }) => showRows(value),
    )
  }
  return withFleet(
    options,
    (fleet) =>
      fleet.transact({ tenant, action, subject: subject === '' ? domain : subject, actor }, async (tx) => {
        const { rows, rowCount } = await tx.query(domain, statement)
        return { rows, rowCount }
      }),
    ({ value, transactionId, commitTimestamp }) => {
      showRows(value.rows)
      printLine(`${value.rowCount} rows, committed as ${transactionId} at ${formatHlc(commitTimestamp)}`)
    },
  )
}

function showRows(rows: readonly Record<string, unknown>[]): void {
  const columns = Object.keys(rows[0] ?? {})
  if (columns.length === 0) return
  printLine(
    table(
      columns,
      rows.map((row) => columns.map((column) => String(row[column]))),
    ),
  )
}

function showTransaction(view: TransactionView): void {
  printLine(`${view.transactionId} ${view.outcome}`)
  printLine(`${view.action} ${view.subject} by ${view.actor} for ${view.tenant}, home ${view.home}`)
  if (view.commitTimestamp !== null) printLine(`committed at ${formatHlc(view.commitTimestamp)}`)
  if (view.refusal !== null) printLine(`${view.refusal.code}: ${view.refusal.reason}`)
  for (const branch of view.branches) printLine(`branch at ${branch.shard}: ${branch.state}`)
}

function showTimeline(entries: readonly TimelineEntry[]): void {
  for (const entry of entries)
    printLine(JSON.stringify(entry, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value)))
}

function showEvidence(evidence: Evidence): void {
  printLine(`${evidence.transactionId}: ${evidence.status}`)
  for (const { link, status, reason } of evidence.links) printLine(`${status.padEnd(8)} ${link.padEnd(12)} ${reason}`)
}

async function collect<T>(entries: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const entry of entries) all.push(entry)
  return all
}
