import { remembered } from '../base/remembered.ts'
import type { SqlToken } from './sql-lexer.ts'
import { isSymbol, keyword, lexSql } from './sql-lexer.ts'

/**
 * Which statements a caller may send inside a transaction of Holdfast.
 *
 * Most of what must not happen is refused by the database, whatever this file overlooks: another tenant's rows (row
 * security for a role that only the gateway becomes), a write where the placement is not (the guard
 * trigger), Holdfast's own tables and functions (privileges), several statements
 * in one text (the extended protocol), and every function that changes a setting or runs a text as SQL, which a
 * migration takes from the application: `set_config`, `pg_settings`, anonymous blocks, `query_to_xml`.
 *
 * One thing rests on this file: a statement's first word. PostgreSQL has no `set role` that cannot be taken back, so
 * `reset role` sent by the caller would make the gateway's role of the application's, and that role may open and stamp.
 * No privilege forbids the commands `set` and `reset`, and none forbids `commit`, which would take effect before the
 * decision that it belongs to. They are commands of their own and cannot stand inside another one, so what has to be
 * right is that the first word is found where PostgreSQL finds it, and that only words of a list pass.
 *
 * The rest is clarity. PostgreSQL would refuse a temporary table or a `notify` only at the prepare, far from its cause
 * (HZ-X6). HAZARD: a function that a migration of the operator installs is trusted; it could do all of this.
 */
export type StatementVerdict =
  | { readonly allowed: true }
  | { readonly allowed: false; readonly reason: string; readonly hint: string }

const allowed: StatementVerdict = { allowed: true }

/** A statement may begin with these, and be what `explain` is asked about. */
const queries = ['select', 'insert', 'update', 'delete', 'merge', 'with', 'values', 'table']

const begins: ReadonlySet<string> = new Set([
  ...queries,
  'explain',
  'show',
  'savepoint',
  'release',
  'lock',
  'declare',
  'fetch',
  'move',
  'close',
  'call',
])

const savepointWords: ReadonlySet<string> = new Set(['savepoint', 'release', 'rollback'])

const transactionIsOurs = 'the transaction begins and ends with the function given to transact; savepoints are allowed'
const roleIsOurs = 'statements run as the application role; only set local of harmless settings is allowed'
const schemaIsMigrated = 'change the schema by a migration of the domain'
const cannotBePrepared = 'what it does cannot be part of a prepared transaction'

/** Why the others are refused. A word that is not here is refused without a particular hint. */
const hints: Readonly<Record<string, string>> = {
  begin: transactionIsOurs,
  start: transactionIsOurs,
  commit: transactionIsOurs,
  end: transactionIsOurs,
  abort: transactionIsOurs,
  rollback: transactionIsOurs,
  prepare: transactionIsOurs,
  execute: 'statements are prepared by the driver',
  deallocate: 'statements are prepared by the driver',
  discard: roleIsOurs,
  set: roleIsOurs,
  reset: roleIsOurs,
  do: 'the text of an anonymous block cannot be checked; install a function by a migration',
  create: schemaIsMigrated,
  alter: schemaIsMigrated,
  drop: schemaIsMigrated,
  truncate: 'use delete: row security does not hold truncate',
  grant: schemaIsMigrated,
  revoke: schemaIsMigrated,
  copy: 'a copy does not travel in a flight; use insert with arrays and unnest',
  listen: 'use tx.emit: events leave through the outbox',
  unlisten: 'use tx.emit: events leave through the outbox',
  notify: 'use tx.emit: events leave through the outbox',
  load: schemaIsMigrated,
  vacuum: 'maintenance is the operator’s',
  analyze: 'maintenance is the operator’s',
}

/** Functions that reach a setting, run a text as SQL, outlive the transaction, or cannot be prepared. */
const refusedFunctions: Readonly<Record<string, string>> = {
  set_config: roleIsOurs,
  query_to_xml: 'it runs a text that cannot be checked',
  query_to_xmlschema: 'it runs a text that cannot be checked',
  query_to_xml_and_xmlschema: 'it runs a text that cannot be checked',
  ts_stat: 'it runs a text that cannot be checked',
  ts_rewrite: 'it runs a text that cannot be checked',
  dblink: 'another connection is outside this transaction',
  dblink_exec: 'another connection is outside this transaction',
  dblink_send_query: 'another connection is outside this transaction',
  pg_notify: 'use tx.emit: events leave through the outbox',
  pg_export_snapshot: cannotBePrepared,
  pg_logical_emit_message: 'messages in the log are Holdfast’s',
  pg_advisory_lock: 'it outlives the transaction; use pg_advisory_xact_lock with two keys',
  pg_advisory_lock_shared: 'it outlives the transaction; use pg_advisory_xact_lock_shared with two keys',
  pg_try_advisory_lock: 'it outlives the transaction; use pg_try_advisory_xact_lock with two keys',
  pg_try_advisory_lock_shared: 'it outlives the transaction; use pg_try_advisory_xact_lock_shared with two keys',
  pg_advisory_unlock: 'it outlives the transaction; use pg_advisory_xact_lock with two keys',
  pg_advisory_unlock_shared: 'it outlives the transaction; use pg_advisory_xact_lock with two keys',
  pg_advisory_unlock_all: 'it outlives the transaction; use pg_advisory_xact_lock with two keys',
}

/** `set local` of these changes how a statement runs, and ends with the transaction. */
const harmlessSettings: ReadonlySet<string> = new Set([
  'statement_timeout',
  'lock_timeout',
  'work_mem',
  'jit',
  'plan_cache_mode',
  'timezone',
])

export const guardStatement: (sql: string) => StatementVerdict = remembered((sql) => {
  const tokens = lexSql(sql)
  if ('kind' in tokens) return refuse(`the statement cannot be read: ${tokens.reason}`, 'correct the statement')
  return guardBeginning(tokens) ?? guardInside(tokens) ?? allowed
}, 500)

/** Of a batch, which fails or passes as a whole: nobody sees that a statement failed, so there is nothing to return to. */
export function guardBatched(sql: string): StatementVerdict {
  const tokens = lexSql(sql)
  const first = 'kind' in tokens ? undefined : keyword(tokens.find((token) => !isSymbol(token, '(')))
  return first !== undefined && savepointWords.has(first)
    ? refuse(`${first} is refused in a batch`, 'await statements around a savepoint one by one with query')
    : guardStatement(sql)
}

function guardBeginning(tokens: readonly SqlToken[]): StatementVerdict | undefined {
  const start = tokens.findIndex((token) => !isSymbol(token, '('))
  const first = keyword(tokens[start])
  if (first === undefined) return refuse('the statement does not begin with a command', 'send one SQL statement')
  if (first === 'rollback') return isRollbackTo(tokens, start) ? undefined : refuseCommand(first)
  if (first === 'set') return guardSet(tokens.slice(start + 1))
  if (!begins.has(first)) return refuseCommand(first)
  if (first === 'explain') return guardExplain(tokens.slice(start + 1))
  return undefined
}

function guardInside(tokens: readonly SqlToken[]): StatementVerdict | undefined {
  const end = tokens.findIndex((token) => isSymbol(token, ';'))
  if (end !== -1 && tokens.slice(end).some((token) => !isSymbol(token, ';'))) {
    return refuse('there is more than one statement in the text', 'send one statement at a time')
  }
  for (const [at, token] of tokens.entries()) {
    const name = token.kind === 'word' ? token.text : undefined
    if (name !== undefined && isSymbol(tokens[at + 1], '(') && Object.hasOwn(refusedFunctions, name)) {
      return refuse(`the function ${name} is refused`, refusedFunctions[name] ?? '')
    }
    if (name === 'pg_settings') return refuse('pg_settings is refused', 'a setting is shown by show')
    const before = keyword(tokens[at - 1])
    // A reserved word: unquoted it is nothing but the clause.
    if (keyword(token) === 'into' && before !== 'insert' && before !== 'merge') {
      return refuse('select into makes a table', 'insert into a table of the domain')
    }
    if (keyword(token) === 'hold' && before === 'with') {
      return refuse('a cursor with hold outlives the transaction', cannotBePrepared)
    }
  }
  return undefined
}

function guardSet(rest: readonly SqlToken[]): StatementVerdict | undefined {
  const words = rest.map((token) => (token.kind === 'word' ? token.text : undefined))
  if (words[0] === 'constraints') return undefined
  const separator = rest[2]
  const isAssignment = isSymbol(separator, '=') || keyword(separator) === 'to'
  if (words[0] === 'local' && words[1] !== undefined && harmlessSettings.has(words[1]) && isAssignment) return undefined
  return refuseCommand('set')
}

/** `explain analyze` executes, so what it explains must be allowed itself. */
function guardExplain(rest: readonly SqlToken[]): StatementVerdict | undefined {
  let at = 0
  if (isSymbol(rest[0], '(') && !queries.includes(keyword(rest[1]) ?? '')) {
    at = rest.findIndex((token) => isSymbol(token, ')')) + 1
  }
  while (['analyze', 'analyse', 'verbose'].includes(keyword(rest[at]) ?? '')) at += 1
  while (isSymbol(rest[at], '(')) at += 1
  const explained = keyword(rest[at])
  return explained !== undefined && queries.includes(explained)
    ? undefined
    : refuse(`explain of ${explained ?? 'something else'} is refused`, `explain one of ${queries.join(', ')}`)
}

function isRollbackTo(tokens: readonly SqlToken[], start: number): boolean {
  const second = keyword(tokens[start + 1])
  const next = second === 'work' || second === 'transaction' ? keyword(tokens[start + 2]) : second
  return next === 'to'
}

function refuseCommand(command: string): StatementVerdict {
  return refuse(`${command} is refused`, hints[command] ?? `a statement begins with one of ${[...begins].join(', ')}`)
}

function refuse(reason: string, hint: string): StatementVerdict {
  return { allowed: false, reason, hint }
}
