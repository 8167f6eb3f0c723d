import type { Command } from 'commander'
import { HoldfastError } from '../../base/errors.ts'
import type { EvidenceDocument, TimelineDocument, TransactionDocument } from '../../fleet/documents.ts'
import { evidenceDocument, timelineDocument, transactionDocument } from '../../fleet/documents.ts'
import type { TimelineRange } from '../../evidence/timeline.ts'
import type { Gateway } from '../../fleet/gateway.ts'
import type { AcceptClockReport, AcceptClockRequest, InDoubtView } from '../../fleet/operations-api.ts'
import { parseHlc } from '../../hlc/hlc.ts'
import { optionsOf, withFleet } from '../attach.ts'
import { printLine, writeDocument } from '../output.ts'
import { showStatement, sql, type SqlOptions } from '../sql.ts'

/** `sql`, `txn`, `timeline`, `resolve`, `prove`. */
export function addTransactionCommands(program: Command): void {
  program
    .command('sql')
    .description('run one statement as one business action; a statement that reads is a proven read')
    .requiredOption('--tenant <tenant>', 'whose rows')
    .requiredOption('--domain <domain>', 'whose tables')
    .option('--actor <actor>', 'who does it', 'operator')
    .option('--action <action>', 'what is done', 'sql')
    .option('--subject <subject>', 'what it is done to; the domain when left out')
    .option('--session <token>', 'the token of an earlier answer: this one is not older')
    .argument('<statement>', 'one SQL statement')
    .action((statement: string, _options: unknown, command: Command) => {
      const options = optionsOf<SqlOptions>(command)
      return withFleet(options, (fleet) => sql(fleet, options, statement), showStatement)
    })
  program
    .command('txn')
    .description('one transaction with its record and its branches')
    .argument('<id>', 'a transaction id')
    .action((id: string, _options: unknown, command: Command) =>
      withFleet(optionsOf(command), async (fleet) => transactionDocument(await fleet.transaction(id)), showTransaction),
    )
  program
    .command('timeline')
    .description('the committed history of all shards, merged by commit timestamp')
    .option('--tenant <tenant>', 'of one tenant alone')
    .option('--since <timestamp>', 'from this commit timestamp on, itself included')
    .option('--until <timestamp>', 'up to this commit timestamp, itself excluded')
    .action((_options: unknown, command: Command) => {
      const { tenant, since, until, ...options } = optionsOf<{ tenant?: string; since?: string; until?: string }>(
        command,
      )
      const range = (): TimelineRange => ({
        tenant,
        since: since === undefined ? undefined : parseHlc(since),
        until: until === undefined ? undefined : parseHlc(until),
      })
      return withFleet(options, (fleet) => collect(fleet, range()), showTimeline)
    })
  program
    .command('resolve')
    .description('settle what is in doubt, through its record')
    .option('--dry-run', 'only say what would become of it')
    .option('--accept-clock <shard>', 'let the clock of this shard pass the decisions that it refuses for their time')
    .option('--actor <actor>', 'with --accept-clock: on whose word')
    .option('--reason <text>', 'with --accept-clock: why')
    .action((_options: unknown, command: Command) => {
      const { dryRun, acceptClock, actor, reason, ...options } = optionsOf<ResolveOptions>(command)
      if (acceptClock === undefined && actor === undefined && reason === undefined) {
        return withFleet(options, (fleet) => fleet.resolve(dryRun === true), showResolutions)
      }
      return withFleet(
        options,
        (fleet) => fleet.acceptClock(acceptRequest({ dryRun, acceptClock, actor, reason })),
        showAcceptance,
      )
    })
  program
    .command('prove')
    .description('the evidence of one transaction, link by link')
    .option('--out <file>', 'write the evidence there as well')
    .argument('<id>', 'a transaction id')
    .action((id: string, _options: unknown, command: Command) => {
      const { out, ...options } = optionsOf<{ out?: string }>(command)
      return withFleet(
        options,
        async (fleet) => {
          const evidence = evidenceDocument(await fleet.prove(id))
          if (out !== undefined) await writeDocument(out, evidence)
          return evidence
        },
        showEvidence,
        ({ status }) => status === 'broken',
      )
    })
}

interface ResolveOptions {
  readonly dryRun?: boolean | undefined
  readonly acceptClock?: string | undefined
  readonly actor?: string | undefined
  readonly reason?: string | undefined
}

/** Nobody moves a clock by half a command line. */
function acceptRequest({ dryRun, acceptClock: shard, actor, reason }: ResolveOptions): AcceptClockRequest {
  if (dryRun !== true && shard !== undefined && actor?.trim() && reason?.trim()) {
    return { shard, actor: actor.trim(), reason: reason.trim() }
  }
  throw new HoldfastError('argument_invalid', '--accept-clock takes --actor and --reason, which nothing else does', {
    hint: 'holdfast resolve --dry-run says beforehand what is refused, and what the ways out are',
  })
}

async function collect(fleet: Gateway, range: TimelineRange): Promise<TimelineDocument[]> {
  const all: TimelineDocument[] = []
  for await (const entry of fleet.timeline(range)) all.push(timelineDocument(entry))
  return all
}

function showTransaction(view: TransactionDocument): void {
  printLine(`${view.transactionId} ${view.outcome}`)
  if (view.action !== null) printLine(`${view.action} ${view.subject} by ${view.actor} for ${view.tenant}`)
  if (view.home !== null) printLine(`home ${view.home}`)
  if (view.commitTimestamp !== null) printLine(`committed at ${view.commitTimestamp}`)
  if (view.refusal !== null) printLine(`${view.refusal.code}: ${view.refusal.reason}`)
  for (const { shard, state, accepted } of view.branches) {
    const word =
      accepted === null ? '' : `, at a time that its clock passed on the word of ${accepted.actor}: ${accepted.reason}`
    printLine(`branch at ${shard}: ${state}${word}`)
  }
}

function showTimeline(entries: readonly TimelineDocument[]): void {
  for (const { commitTimestamp, name, tenant, action, subject, actor, shards } of entries) {
    const what = action === null ? 'unattributed' : `${tenant} ${action} ${subject} by ${actor}`
    printLine(`${commitTimestamp} ${name} ${what} on ${shards.join(', ')}`)
  }
}

function showResolutions(found: readonly InDoubtView[]): void {
  if (found.length === 0) printLine('nothing is in doubt')
  for (const { gid, ageMs, verdict, why } of found) {
    printLine(`${verdict.padEnd(14)} ${gid}  ${Math.round(ageMs)} ms: ${why}`)
  }
}

function showAcceptance({ accepted, resolved }: AcceptClockReport): void {
  for (const { shard, transactionId, clockBefore, commitTimestamp, actor, reason, acceptedAt } of accepted) {
    printLine(`${shard} may pass ${transactionId}: from ${clockBefore} to ${commitTimestamp}`)
    printLine(`accepted by ${actor} at ${acceptedAt}: ${reason}`)
  }
  showResolutions(resolved)
}

function showEvidence(evidence: EvidenceDocument): void {
  printLine(`${evidence.transactionId}: ${evidence.status}`)
  for (const { link, status, reason } of evidence.links) printLine(`${status.padEnd(8)} ${link.padEnd(12)} ${reason}`)
}
