/**
 * The statements of a file of this package, so that one which fails can be named. PostgreSQL tells the place only of what it
 * cannot parse.
 *
 * HAZARD: it knows neither block comments inside each other nor backslashes in strings, and no file of the package has them.
 */
const piece = /--[^\n]*|\/\*[\s\S]*?\*\/|'[^']*'|"[^"]*"|(\$\w*\$)[\s\S]*?\1|;|[^;'"$/-]+|[\s\S]/g

export function statementsOf(text: string): string[] {
  const statements: string[] = []
  let statement = ''
  const end = () => {
    if (withoutComments(statement) !== '') statements.push(statement.trim())
    statement = ''
  }
  for (const [part] of text.matchAll(piece)) {
    if (part === ';') end()
    else statement += part
  }
  end()
  return statements
}

/** The first line of a statement that is not a comment, as short as a message wants it. */
export function summaryOf(statement: string): string {
  const line = withoutComments(statement).split('\n', 1)[0] ?? ''
  return line.length > 100 ? `${line.slice(0, 100)}...` : line
}

function withoutComments(statement: string): string {
  return statement.replace(/^(?:\s+|--[^\n]*|\/\*[\s\S]*?\*\/)*/, '').trimEnd()
}
