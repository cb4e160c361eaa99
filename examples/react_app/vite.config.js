import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

// While you work on the page, `npm run dev` serves it and forwards requests for the chat to the chat server.
const chat = process.env.CHAT_URL ?? 'http://127.0.0.1:8000'
const proxy = { '^/(api/|durable-chat)': chat }

export default defineConfig({ plugins: [react()], build: { target: 'es2022' }, server: { proxy } })
