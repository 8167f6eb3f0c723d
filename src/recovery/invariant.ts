import { basename, join } from 'node:path'
import { HoldfastError } from '../base/errors.ts'
import type { DomainName } from '../directory/topology.ts'
import { readSqlFiles } from '../postgres/release.ts'

/**
 * A business rule: a query that returns the rows that violate it, over the tables and columns that its header names
 * and nothing else. `docs/reference/invariants.md` describes the files.
 */
export interface Invariant {
  readonly name: string
  readonly severity: Severity
  readonly needs: readonly NeededTable[]
  /** The query, without its header. */
  readonly query: string
}

/** `critical`: a restore or a cutover that violates it is refused. `warning`: it is reported. */
export type Severity = 'critical' | 'warning'

export interface NeededTable {
  /** A domain, or `holdfast` for what the platform itself knows. */
  readonly domain: DomainName | typeof platformDomain
  readonly table: string
  readonly columns: readonly string[]
}

export const platformDomain = 'holdfast'

/** What an invariant may ask of the platform: ids and names, nothing of the rows. */
export const platformTables = {
  /** Every committed transaction of the tenants in question, at its home. */
  committed: { transaction_id: 'uuid', commit_timestamp: 'bigint', tenant: 'text', action: 'text', subject: 'text' },
  /** Every line of the delivery journals: what left the outbox. */
  delivery: { event_id: 'uuid', transaction_id: 'uuid', tenant: 'text', name: 'text', state: 'text' },
} as const satisfies Readonly<Record<string, Readonly<Record<string, string>>>>

const headerLine = /^--\s*([a-z][a-z_-]*)\s*:\s*(.*)$/
const identifier = /^[a-z_][a-z0-9_]*$/
const severities: readonly Severity[] = ['critical', 'warning']

/**
 * The invariants of a folder, in the order of their names. Throws `config_invalid` naming the file and the line, and for a folder
 * that has none: whoever names one means to have his rules held.
 */
export async function loadInvariants(folder: string): Promise<Invariant[]> {
  const files = await readSqlFiles(folder).catch((cause: unknown) => {
    if (!(cause instanceof Error && 'code' in cause && typeof cause.code === 'string')) throw cause
    const isMissing = cause.code === 'ENOENT' || cause.code === 'ENOTDIR'
    throw refusedFolder(
      isMissing ? `there is no folder ${folder}` : `${folder} cannot be read: ${cause.message}`,
      cause,
    )
  })
  if (files.length === 0) throw refusedFolder(`${folder} has no .sql file`)
  return files.map(({ name, text }) => parseInvariant(join(folder, name), text))
}

function refusedFolder(what: string, cause?: unknown): HoldfastError {
  return new HoldfastError('config_invalid', `invariants: ${what}`, {
    hint: 'name the folder with the .sql files of the rules, or leave `invariants` out',
    ...(cause === undefined ? {} : { cause }),
  })
}

/** `file`: its path, of which the name is held against the header. */
export function parseInvariant(file: string, text: string): Invariant {
  const lines = text.split('\n')
  const bodyStart = lines.findIndex((line) => line.trim() !== '' && !line.startsWith('--'))
  const header = readHeader(file, bodyStart < 0 ? lines : lines.slice(0, bodyStart))
  const query = bodyStart < 0 ? '' : lines.slice(bodyStart).join('\n').trim().replace(/;$/, '').trimEnd()
  if (query === '') throw refused(file, lines.length, 'has no query')
  const name = required(file, header, 'name')
  if (`${name.value}.sql` !== basename(file)) throw refused(file, name.line, `names ${name.value}; name it as the file`)
  const severity = required(file, header, 'severity')
  const known = severities.find((one) => one === severity.value)
  if (known === undefined) throw refused(file, severity.line, `severity is ${severities.join(' or ')}`)
  const needs = required(file, header, 'needs')
  return { name: name.value, severity: known, needs: parseNeeds(file, needs.line, needs.value), query }
}

interface HeaderValue {
  readonly line: number
  readonly value: string
}

type HeaderKey = 'name' | 'severity' | 'needs'

function readHeader(file: string, lines: readonly string[]): Map<HeaderKey, HeaderValue> {
  const header = new Map<HeaderKey, HeaderValue>()
  for (const [index, line] of lines.entries()) {
    const match = headerLine.exec(line)
    if (match?.[1] === undefined || match[2] === undefined) continue
    const key = (['name', 'severity', 'needs'] as const).find((one) => one === match[1])
    if (key === undefined) throw refused(file, index + 1, `unknown key ${match[1]}; known are name, severity, needs`)
    if (header.has(key)) throw refused(file, index + 1, `${key} is there twice`)
    header.set(key, { line: index + 1, value: match[2].trim() })
  }
  return header
}

function required(file: string, header: ReadonlyMap<HeaderKey, HeaderValue>, key: HeaderKey): HeaderValue {
  const found = header.get(key)
  if (found === undefined || found.value === '') throw refused(file, found?.line ?? 1, `lacks -- ${key}: ...`)
  return found
}

/** `payroll(payroll_runs: tenant, id; payroll_items: tenant, run_id); treasury(treasury_holds: tenant, run_id)`. */
function parseNeeds(file: string, line: number, text: string): NeededTable[] {
  const needs: NeededTable[] = []
  const group = /\s*([a-z][a-z0-9_-]*)\s*\(([^()]*)\)\s*(?:[;,]|$)/y
  while (group.lastIndex < text.length) {
    const match = group.exec(text)
    if (match?.[1] === undefined || match[2] === undefined) throw refused(file, line, `needs: ${needsForm}`)
    for (const part of match[2].split(';')) needs.push(parseTable(file, line, match[1], part))
  }
  const names = needs.map(({ table }) => table)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) throw refused(file, line, `needs: table ${twice} is there twice`)
  return needs
}

const needsForm = 'write domain(table: column, column; table: column); domain(...)'

function parseTable(file: string, line: number, domain: string, part: string): NeededTable {
  const [table = '', list, ...rest] = part.split(':').map((piece) => piece.trim())
  const columns = (list ?? '').split(',').map((column) => column.trim())
  if (rest.length > 0 || !identifier.test(table) || !columns.every((column) => identifier.test(column))) {
    throw refused(file, line, `needs: ${JSON.stringify(part.trim())} is not a table with columns; ${needsForm}`)
  }
  if (domain === platformDomain) requirePlatformColumns(file, line, table, columns)
  return { domain: domain as DomainName, table, columns }
}

function requirePlatformColumns(file: string, line: number, table: string, columns: readonly string[]): void {
  const known = Object.entries(platformTables).find(([name]) => name === table)
  if (known === undefined) {
    throw refused(file, line, `needs: holdfast has ${Object.keys(platformTables).join(' and ')}, not ${table}`)
  }
  const unknown = columns.find((column) => !Object.keys(known[1]).includes(column))
  if (unknown === undefined) return
  throw refused(file, line, `needs: ${table} has ${Object.keys(known[1]).join(', ')}, not ${unknown}`)
}

function refused(file: string, line: number, what: string): HoldfastError {
  return new HoldfastError('config_invalid', `${file}:${line}: ${what}`, {
    hint: 'docs/reference/invariants.md describes the form',
  })
}
