import type { ErrorCategory, Retry } from '../../src/base/errors.ts'

interface Entry {
  readonly category: ErrorCategory
  readonly retry: Retry
  readonly meaning: string
}

/** The text of `docs/reference/errors.md`, from the table in the code. */
export function errorsReference(table: Readonly<Record<string, Entry>>): string {
  const rows = Object.entries(table).map(
    ([code, { category, retry, meaning }]) => `| \`${code}\` | ${category} | ${retry} | ${meaning} |`,
  )
  return `# Errors

Every operating failure is a \`HoldfastError\`. Decide by its \`code\`, which is stable; group by its \`category\`. The message is for
people. The \`hint\` says what to do about it, and \`detail\` has the ids, never a regulated field. A bug in Holdfast is a plain error.

\`retry\` says whether the same call may be sent again:

- \`safe\`: nothing happened; send it again.
- \`never\`: the same call fails again.
- \`unknown\`: it may have happened; ask for the outcome first, with the transaction id in the error.

| category | exit code of a command |
|---|---|
| invalid | 2 |
| denied | 3 |
| not_found | 4 |
| conflict | 5 |
| unavailable | 6 |
| ambiguous | 7 |
| check_failed | 8 |
| internal | 1 |

A test holds this page equal to the table in \`src/base/errors.ts\` and writes it anew with
\`npx vitest run --project unit test/repository.test.ts --update\`.

| code | category | retry | meaning |
|---|---|---|---|
${rows.join('\n')}
`
}
