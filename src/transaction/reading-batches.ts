import { remembered } from '../base/remembered.ts'
import type { BatchItem } from './batch.ts'
import { isSymbol, keyword, lexSql } from './sql-lexer.ts'

/**
 * Which batches are taken for readings before anybody has run them (Q6). A text tells what a statement is, and not what the
 * functions in it do: those it is wrong about are refused by their shard, and known here from then on.
 */
export class ReadingBatches {
  readonly #leftTraces = new Set<string>()

  /** True for a batch of nothing as well. */
  looksLikeReading(batch: readonly BatchItem[]): boolean {
    return batch.every(({ statement }) => looksLikeReading(statement.text)) && !this.#leftTraces.has(nameOf(batch))
  }

  /** Its shard refused to conclude it as a reading. */
  noteTrace(batch: readonly BatchItem[]): void {
    // A set keeps its entries in the order in which they came. Who is forgotten is refused once more.
    for (const oldest of this.#leftTraces) {
      if (this.#leftTraces.size < rememberedMax) break
      this.#leftTraces.delete(oldest)
    }
    this.#leftTraces.add(nameOf(batch))
  }
}

const rememberedMax = 500

/** No text contains a zero byte. */
function nameOf(batch: readonly BatchItem[]): string {
  return batch.map(({ statement }) => statement.text).join('\0')
}

const queries: ReadonlySet<string> = new Set(['select', 'with', 'values', 'table', 'show'])
const writing: ReadonlySet<string> = new Set(['insert', 'update', 'delete', 'merge', 'into'])
/** Behind `for`. */
const lockStrengths: ReadonlySet<string> = new Set(['update', 'no', 'share', 'key'])

/** Whether a text is a query without a command that writes and without a locking clause. In doubt it is not. */
export const looksLikeReading: (sql: string) => boolean = remembered((sql) => {
  const tokens = lexSql(sql)
  if ('kind' in tokens) return false
  const first = keyword(tokens.find((token) => !isSymbol(token, '(')))
  if (first === undefined || !queries.has(first)) return false
  return tokens.every((token, at) => {
    const word = keyword(token)
    if (word === undefined) return true
    return !writing.has(word) && !(keyword(tokens[at - 1]) === 'for' && lockStrengths.has(word))
  })
}, 500)
