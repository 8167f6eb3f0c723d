import { describe, expect, test } from 'vitest'
import { cliReference, commandsOf } from '../../test/support/cli-reference.ts'
import { buildProgram } from './program.ts'

/** What each command prints with `--json`. */
const documents: Readonly<Record<string, string>> = {
  init: '`{ written }`, the files.',
  up: 'once the fleet takes requests, `{ ready, tookMs, dataDir, gateways: [{ region, url }], closed: [{ shard, state, cutover: { environment, canBeGivenUp } }] }`. `ready` is false where a shard takes no traffic, which `closed` has: the fleet starts without one that does not come up, see [failover](../protocols/failover.md), and leaves one closed that a cutover holds, which `cutover` names, else null. What fails after that is told on stderr. A fleet of an earlier release is upgraded first, see [upgrade](../protocols/upgrade.md).',
  down: '`{ stopped: true }`, once the data directory is free.',
  status:
    '`{ fleet, region, ready, gateways: [{ region, url }], shards: [{ shard, state, durability, epoch, historyId, closedTimestamp, inDoubt, acknowledging, nodes: [{ node, region, role, reachable, position }] }], closed }`, `closed` as `up` has it. A fleet that is not ready is an answer, with exit code 0.',
  doctor: '`[{ what, status, detail }]`, where `status` is `ok`, `warning` or `problem`. Exit code 8 with a problem.',
  'tenant list':
    '`[{ tenant, home, placements: [{ domain, shard, version, service, policyVersion, policy: { authority, replicas, otherwise } }] }]`.',
  'tenant show': 'one element of the list.',
  failover:
    '`{ shard, promoted: { node, region, epoch, historyId }, options: { legal: [{ region, followers }], refused: [{ region, followers, reasons }] }, durationMs }`; `promoted` is null with `--what-if`.',
  'keys list':
    '`[{ id, state, goneAt }]`. `state` is `published`, `signing` or `retired`; `goneAt` says of a retired key from when on it verifies nothing, and is null of the others.',
  'keys rotate':
    'the list as it is then. Waits some seconds until every gateway knows the new key; after any failure it may be run again.',
  'keys revoke':
    'the list as it is then. Of a key that signs, a successor signs first. Waits some seconds until no gateway takes the key any more; after any failure it may be run again.',
  'drift list': '`[{ route, from, to, shard, reads, firstAt, lastAt }]`, the last one first.',
  sql: '`{ kind: "committed", rows, rowCount, session, transactionId, commitTimestamp, shards }`; of a statement that reads, `{ kind: "read", rows, rowCount, session, served: [{ shard, node, role, region, appliedThrough, waitedMs, rerouted }] }`. It reads at the primary, with `--session` from the nearest node that can show what the token has seen.',
  txn: "`{ transactionId, outcome, commitTimestamp, tenant, action, subject, actor, home, refusal, record, branches: [{ shard, state, prepareTimestamp, accepted }] }`. `outcome` is `committed`, `aborted`, `in_doubt` or `refused`. `accepted` is `{ actor, reason }` where the clock of the shard passed the commit timestamp on somebody's word (`resolve --accept-clock`), else null.",
  timeline: '`[{ name, transactionId, commitTimestamp, tenant, action, subject, actor, shards, attributed }]`.',
  resolve:
    '`[{ gid, transactionId, home, participant, ageMs, record, homeIsOpen, verdict, why }]`, what was in doubt. `record` is `COMMITTED`, `ABORTED` or null; `homeIsOpen`, whether a coordinator holds its part at home, is null where that was not asked. `verdict` is `committed`, `rolled back`, `left` or `needs a person`; with `--dry-run` `commit`, `roll back`, `wait`, `needs a person` or `unknown`, and `why` names what decides: the record and the barrier that is due, a presumed abort, who is waited for, or by how much the time of a decision lies ahead and what the ways out are. With `--accept-clock` `{ accepted: [{ shard, transactionId, home, clockBefore, commitTimestamp, wall, witness, walls, maxClockOffsetMs, actor, reason, acceptedAt }], resolved }`, see [clock](../protocols/clock.md#a-decision-that-is-refused-for-its-time); exit code 5 where nothing is to be accepted.',
  prove:
    '`{ transactionId, status, commitTimestamp, tenant, action, subject, actor, links: [{ link, status, reason, facts }] }`. `status` is `proven`, `pending` or `broken`; exit code 8 when it is `broken`.',
  backup: '`[{ shard, backupId, region, startLsn, endLsn, bytes, durationMs }]`.',
  'archive status':
    '`[{ shard, region, baseBackups: [{ backupId, takenAt, timeline, startLsn, endLsn, bytes }], restorable: { from, through, timeline }, gaps: [{ timeline, from, to }], redo: { from, through, closedTimestamp } }]`; `restorable` and `redo` are null while there is nothing.',
  'archive verify':
    '`[{ shard, region, ok, problems, baseBackups, walSegments, redoTransactions, bytes }]`. Exit code 8 when one is not `ok`.',
  restore:
    '`{ environment, target, shards: [{ shard, stopLsn, backupId }], excluded: [{ name, reason }], replayed, review, conflicts, gates: [{ name, ok, durationMs, detail }], rtoMs }`; `environment` is null with `--dry-run`. Exit code 8 when a gate did not hold.',
  'restore drop':
    '`{ environment, stopped, removed }`, the servers that ran and the folders that were there. Exit code 5 of an environment that the fleet runs on, or that a cutover has begun with; of one that was dropped before both are empty.',
  'drill run': 'one element of what `drill list` gives. Exit code 8 when a gate or a check did not hold.',
  'drill list':
    '`[{ id, takenAt, target, verdict, rtoMs, rpoMs, shards, excluded, review, gates, checks: { storage, data, cutover } }]`, oldest first.',
  'drill show': 'one element of the list.',
  'invariants check': '`[{ name, severity, violations, rows }]`. Exit code 8 when one is violated.',
  cutover:
    '`{ environment, shards: [{ shard, epoch, historyId }], leftOut, compensations: [{ eventId, name, transactionId }], gates }`; with `--abandon` `{ environment, abandoned: true }`.',
}

const program = buildProgram()

describe('the reference of commands is the program', () => {
  test('in docs/reference/cli.md', async () => {
    await expect(cliReference(program, documents)).toMatchFileSnapshot('../../docs/reference/cli.md')
  })

  test('every command says what it prints, and nothing else does', () => {
    expect(
      commandsOf(program)
        .map(({ path }) => path)
        .toSorted(),
    ).toEqual(Object.keys(documents).toSorted())
  })

  test('every command, argument and option is described, in lower case without a full stop', () => {
    for (const { path, command } of commandsOf(program)) {
      const described = [command, ...command.registeredArguments, ...command.options.filter(({ hidden }) => !hidden)]
      for (const one of described) {
        const text = typeof one.description === 'function' ? one.description() : one.description
        expect(text, path).toMatch(/^[a-z].*[^.]$/)
      }
    }
  })

  test('a command more is a section more', () => {
    const more = buildProgram()
    more.command('dance').description('dance')
    expect(cliReference(more, documents)).toContain('## `holdfast dance`')
    expect(cliReference(program, documents)).not.toContain('dance')
  })
})
