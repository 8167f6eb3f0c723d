import { z } from 'zod'
import type { ErrorCategory } from '../base/errors.ts'
import { errorTable } from '../base/errors.ts'
import { problemContentType, statusOf } from './problem.ts'
import type { ApiRoute } from './routes.ts'

/** The API as an OpenAPI 3.1 document, from the routes and forms that serve it. */
export function openApiOf(routes: readonly ApiRoute[]): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {}
  for (const route of routes)
    paths[route.path] = { ...paths[route.path], [route.method.toLowerCase()]: operationOf(route) }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Holdfast',
      version: '1',
      description: 'Errors are problem documents (RFC 9457) with `code`, `category` and `retry`.',
    },
    paths,
    components: { schemas: { Problem: problemSchema() }, responses: problemResponses() },
  }
}

function operationOf(route: ApiRoute): Record<string, unknown> {
  const parameters = [
    ...pathParameters(route.path),
    ...(route.query === undefined ? [] : queryParameters(route.query)),
    ...(route.session ? [sessionParameter] : []),
    ...(route.method === 'POST' && route.path === '/v1/transactions' ? [idempotencyParameter] : []),
  ]
  const problems = [...new Set(categories.map(statusOf))].map((status) => [
    String(status),
    { $ref: `#/components/responses/Problem${status}` },
  ])
  return {
    summary: route.summary,
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(route.body === undefined
      ? {}
      : {
          requestBody: { required: true, content: { 'application/json': { schema: schemaOf(route.body, 'input') } } },
        }),
    responses: {
      200: {
        description: 'Done.',
        ...(route.session ? { headers: answerHeaders } : {}),
        content: { 'application/json': { schema: route.answer === undefined ? {} : schemaOf(route.answer, 'output') } },
      },
      ...Object.fromEntries(problems),
    },
  }
}

const categories = [...new Set(Object.values(errorTable).map(({ category }): ErrorCategory => category))]

function schemaOf(form: z.ZodType, io: 'input' | 'output'): Record<string, unknown> {
  const { $schema: _, ...schema } = z.toJSONSchema(form, { target: 'draft-2020-12', io })
  return schema
}

function pathParameters(path: string) {
  return [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }))
}

function queryParameters(form: z.ZodType) {
  const { properties = {} } = z.toJSONSchema(form, { target: 'draft-2020-12', io: 'input', unrepresentable: 'any' })
  return Object.entries(properties).map(([name, schema]) => ({ name, in: 'query', required: false, schema }))
}

const sessionParameter = {
  name: 'Holdfast-Session',
  in: 'header',
  required: false,
  description:
    'The token of the last answer, or those of answers to requests at the same time, with commas between them. This answer will not show less than they have seen.',
  schema: { type: 'string' },
}

const idempotencyParameter = {
  name: 'Idempotency-Key',
  in: 'header',
  required: false,
  description: 'One for each click. The second arrival gets the first outcome.',
  schema: { type: 'string', maxLength: 255 },
}

const answerHeaders = {
  'Holdfast-Session': { schema: { type: 'string' }, description: 'The token to send with the next request.' },
  'Holdfast-Session-Refused': {
    schema: { type: 'string' },
    description: 'Of a problem: the code for which the token that was sent is of no use any more.',
  },
  'Cache-Control': { schema: { type: 'string' }, description: '`private, no-store`: no cache hands a session on.' },
  Vary: { schema: { type: 'string' }, description: '`Holdfast-Session`.' },
  'Holdfast-Served-By': { schema: { type: 'string' }, description: 'The nodes that answered a read.' },
  'Holdfast-Applied-Through': { schema: { type: 'string' }, description: 'What each of them had applied.' },
  'Holdfast-Waited-Ms': { schema: { type: 'string' }, description: 'How long each of them was waited for.' },
}

function problemSchema() {
  return {
    type: 'object',
    required: ['type', 'title', 'status', 'detail', 'code', 'category', 'retry', 'context'],
    properties: {
      type: { type: 'string' },
      title: { type: 'string' },
      status: { type: 'integer' },
      detail: { type: 'string' },
      code: { enum: Object.keys(errorTable) },
      category: { enum: categories },
      retry: { enum: ['never', 'safe', 'unknown'] },
      hint: { type: 'string' },
      context: { type: 'object' },
    },
  }
}

function problemResponses() {
  const content = { [problemContentType]: { schema: { $ref: '#/components/schemas/Problem' } } }
  return Object.fromEntries(
    [...new Set(categories.map(statusOf))].map((status) => [
      `Problem${status}`,
      { description: categories.filter((category) => statusOf(category) === status).join(', '), content },
    ]),
  )
}
