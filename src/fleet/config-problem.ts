import { isAlias, isMap, isScalar, isSeq, LineCounter, type ParsedNode, parseDocument } from 'yaml'
import { HoldfastError } from '../base/errors.ts'

/** Where something stands in a configuration: `['shards', 'eu-west/payroll', 'followers', 1]`. */
export type ConfigPath = readonly (string | number)[]

export interface ConfigProblem {
  readonly path: ConfigPath
  /** Whether the name at the path is wrong, or what it holds. */
  readonly at: 'key' | 'value'
  /** What is wrong. */
  readonly message: string
  /** What would be right. */
  readonly hint: string
}

/** Takes one problem; the checks go on, so that all of them are told at once. */
export type Report = (path: ConfigPath, message: string, hint: string, at?: ConfigProblem['at']) => unknown

interface Position {
  readonly line: number
  readonly column: number
}

/** A configuration as plain data that still knows where each value was written. */
export interface ConfigSource {
  /** What messages call it: the file's name as the caller gave it. */
  readonly label: string
  readonly value: unknown
  /** `null` when it was not read from a text. */
  locate(path: ConfigPath, at: ConfigProblem['at']): Position | null
}

/** A configuration that was given as an object. */
export function objectSource(value: unknown): ConfigSource {
  return { label: 'config', value, locate: () => null }
}

/** A configuration in YAML 1.2. Throws `config_invalid` when it is not YAML. */
export function yamlSource(text: string, label: string): ConfigSource {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, logLevel: 'silent' })
  const position = (offset: number): Position => {
    const { line, col } = lines.linePos(offset)
    return { line, column: col }
  }
  const notYaml = (message: string, offset: number): ToldProblem => {
    return { ...position(offset), path: [], message: lowerFirst(message), hint: 'write it as YAML 1.2' }
  }
  if (document.errors.length > 0) {
    throw configInvalid(
      label,
      document.errors.map(({ message, pos }) => notYaml(message, pos[0])),
    )
  }
  let value: unknown
  try {
    value = document.toJS()
  } catch (cause) {
    throw configInvalid(label, [notYaml(cause instanceof Error ? cause.message : 'its aliases do not resolve', 0)])
  }
  const locate = (path: ConfigPath, at: ConfigProblem['at']) => {
    let node: ParsedNode | null | undefined = document.contents
    let key = node?.range[0] ?? 0
    for (const segment of path) {
      const resolved: unknown = isAlias(node) ? node.resolve(document) : node
      if (isMap<ParsedNode, ParsedNode | null>(resolved)) {
        const pair = resolved.items.find((item) => isScalar(item.key) && String(item.key.value) === String(segment))
        if (pair === undefined) return position(key)
        key = pair.key.range[0]
        node = pair.value
      } else if (isSeq<ParsedNode>(resolved) && typeof segment === 'number') {
        node = resolved.items[segment]
        key = node?.range[0] ?? key
      } else return position(key)
    }
    return position(at === 'key' ? key : (node?.range[0] ?? key))
  }
  return { label, value, locate }
}

interface ToldProblem {
  readonly path: ConfigPath
  readonly line: number | null
  readonly column: number | null
  readonly message: string
  readonly hint: string
}

/** One error for all problems of a source, in the order of its lines. */
export function configError(source: ConfigSource, problems: readonly ConfigProblem[]): HoldfastError {
  const told = problems.map(({ path, at, message, hint }) => {
    const { line, column } = source.locate(path, at) ?? { line: null, column: null }
    return { path, line, column, message, hint }
  })
  told.sort((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0))
  return configInvalid(source.label, told)
}

function configInvalid(label: string, problems: readonly ToldProblem[]): HoldfastError {
  const at = ({ line, column }: ToldProblem) => (line === null ? `${label}:` : `${label}:${line}:${column}:`)
  const what = ({ path, message }: ToldProblem) => (path.length === 0 ? message : `${path.join('.')}: ${message}`)
  const [first, ...others] = problems
  const hint = others.length === 0 ? (first?.hint ?? '') : problems.map((p) => `${at(p)} ${p.hint}`).join('\n')
  return new HoldfastError('config_invalid', problems.map((p) => `${at(p)} ${what(p)}`).join('\n'), {
    hint,
    detail: { problems },
  })
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1)
}
